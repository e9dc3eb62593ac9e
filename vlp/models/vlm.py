"""The one model: two towers, their joint space, a fusion and a decoder. Families are YAML files over it.

The model does not depend on losses, optimisers or configs. A part that a family lacks is None, and using it is an
error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.levels import kept_outputs, to_maps
from vlp.models.precision import to_float32
from vlp.models.vision.positions import warn_of_resized_positions
from vlp.structures import CrossAttentionCache, Image, Text, Tokens
from vlp.system.errors import UserError
from vlp.system.renamed import RenamedMethod

# methods of a part that the model calls where they exist; a user's part with the old name would be ignored without an error
_RENAMED_HOOKS = {"remember": "project_memory", "constrain": "clamp_parameters", "share": "share_text_layers"}


class VisionLanguageModel(nn.Module):
    """f(x, y) = g(h_v(x), h_l(y)) with vision tower h_v, text tower h_l, and g the scaled cosine in the joint space.

    vision: Image → Tokens, with `width` of its pooled feature.  text: Text → Tokens, likewise.
    projection: see `vlp.models.projection`; it also holds the temperature (and SigLIP's bias).  fusion: g, text and image
    states → multimodal states.  decoder: text and memory → logits of the next token. In YAML these three are `_partial_`s,
    finished here with the widths of the parts that they read, so that a tower is swapped by one word.
    """

    def __init__(
        self,
        *,
        vision: nn.Module | None = None,
        text: nn.Module | None = None,
        projection: nn.Module | Callable[..., nn.Module] | None = None,
        fusion: nn.Module | Callable[..., nn.Module] | None = None,
        decoder: nn.Module | Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self._resizing_noticed = False
        if projection is not None and not isinstance(projection, nn.Module):
            projection = projection(image_width=self.part("vision").width, text_width=self.part("text").width)
        self.projection = projection
        if fusion is not None and not isinstance(fusion, nn.Module):
            widths = {
                f"{name}_width": states_width(self.part(tower))
                for name, tower in (("image", "vision"), ("text", "text"))
            }
            fusion = fusion(**widths)
        self.fusion = fusion
        if decoder is not None and not isinstance(decoder, nn.Module):
            # of a model of texts alone, the text tower's
            read = "fusion" if fusion is not None else "text" if vision is None and text is not None else "vision"
            decoder = decoder(memory_width=states_width(self.part(read)))
        self.decoder = decoder
        parts: list[Any] = [self.projection, fusion, decoder]
        for part in parts:
            for old, new in _RENAMED_HOOKS.items():
                if hasattr(part, old):
                    raise UserError(f"{type(part).__name__}.{old} was renamed: name the method {new}")
            if hasattr(part, "share_text_layers"):  # BLIP's are made of the text tower's own layers
                part.share_text_layers(text)

    def part(self, name: str) -> Any:
        module = getattr(self, name)
        if module is None:
            raise UserError(f"this model has no {name}: choose one with model/{name}=…")
        return module

    def encode_image(self, image: Image, *, pooled_only: bool = False, levels: Collection[str] = ()) -> Tokens:
        """pooled_only: only `pooled` will be read, so a tower that `prunes` leaves out the rest.
        levels: names of modules of the tower whose maps are returned too, in `Tokens.levels`.

        Once in the life of a model a warning says that a tower resizes its positions, as images are of another size than theirs.
        """
        tower = self.part("vision")
        size: tuple[int, int] = (image.pixels.shape[2], image.pixels.shape[3])
        self._resizing_noticed = self._resizing_noticed or warn_of_resized_positions(tower, size)
        if not levels:
            return _run_tower(tower, image, pooled_only)
        with kept_outputs(tower, tuple(levels)) as outputs:
            tokens = tower(image)
        return replace(tokens, levels=to_maps(outputs, levels, tokens, tower))

    def encode_text(self, text: Text, *, pooled_only: bool = False) -> Tokens:
        return _run_tower(self.part("text"), text, pooled_only)

    def embed_image(self, tokens: Tokens) -> Float[Tensor, "b e"]:
        """Of unit length; in evaluation mode in float32, outside autocast."""
        return self._embed(self.part("projection").project_image, tokens.pooled)

    def embed_text(self, tokens: Tokens) -> Float[Tensor, "b e"]:
        """As `embed_image`."""
        return self._embed(self.part("projection").project_text, tokens.pooled)

    def _embed(self, project: Callable[[Tensor], Tensor], pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        if self.training:
            return F.normalize(project(pooled), dim=-1)
        with torch.autocast(pooled.device.type, enabled=False):
            weights = next(self.part("projection").parameters())
            return F.normalize(to_float32(project(pooled.to(weights.dtype))), dim=-1)

    def similarity(self, image_embed: Float[Tensor, "n e"], text_embed: Float[Tensor, "m e"]) -> Float[Tensor, "n m"]:
        """Logits: the cosine with temperature and bias."""
        return self.part("projection").logits(image_embed, text_embed)

    def project_memory(self, image: Tokens) -> CrossAttentionCache | Tokens:
        """What the fusion needs of an image, computed once however many texts are fused with it."""
        return self.part("fusion").project_memory(image)

    remember = RenamedMethod("project_memory")

    def fuse(self, text: Tokens, *images: Tokens | CrossAttentionCache) -> Tokens:
        """Text and image states → multimodal states, the text's first; row i of the text with row i of each image."""
        return self.part("fusion")(text, *images)

    def decode(self, text: Text, memory: Tokens) -> Float[Tensor, "b t vocabulary"]:
        """Logits of the token after each token of the text, which attends to row i of the memory."""
        return self.part("decoder")(text, memory)

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        """Puts trainable parameters back into their allowed range; called before training and after each optimiser step."""
        parts: list[Any] = [self.projection, self.fusion]
        for part in parts:
            if hasattr(part, "clamp_parameters"):
                frozen = [(p, p.clone()) for p in part.parameters(recurse=False) if not p.requires_grad]
                part.clamp_parameters()
                for parameter, value in frozen:
                    parameter.copy_(value)

    constrain = RenamedMethod("clamp_parameters")


def states_width(part: Any) -> int:
    """Of `Tokens.states`; most parts' pooled feature has the same."""
    return getattr(part, "states_width", part.width)


def tower_config(tower: Any) -> dict[str, Any]:
    """From which `build` makes the tower again, without weights."""
    return {"_target_": f"{type(tower).__module__}.{type(tower).__qualname__}"} | tower.architecture()


def _run_tower(tower: nn.Module, inputs: Image | Text, pooled_only: bool) -> Tokens:
    return tower(inputs, pooled_only=True) if pooled_only and getattr(tower, "prunes", False) else tower(inputs)
