"""Every tower, fusion and decoder of the tree, small and with random weights, as a module from tensors to tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlp.models.decoder.causal import CausalDecoder, DecoderCache
from vlp.models.decoder.coca import CocaDecoder
from vlp.models.fusion.cross import CrossFusion
from vlp.models.fusion.grounded import GroundedFusion
from vlp.models.fusion.single_stream import SingleStreamFusion
from vlp.models.text.bert import BertText
from vlp.models.text.clip_text import ClipText
from vlp.models.text.transformers import TransformersText
from vlp.models.vision.clip_resnet import ClipResNet
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.concat import ConcatTower
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vision.timm import TimmVision
from vlp.models.vision.torchvision import TorchvisionVision
from vlp.models.vision.transformers import TransformersVision
from vlp.models.vision.vilt_patches import ViltPatches
from vlp.structures import CrossAttentionCache, Image, Text, Tokens

WORDS, CONTEXT, SIZE = 300, 16, 32


@dataclass(frozen=True)
class Part:
    """module: tensors → tensors.  inputs: of a batch size, and a length of texts.  dynamic: dimensions of each input by name."""

    module: nn.Module
    inputs: Callable[[int, int], tuple[Tensor, ...]]
    dynamic: tuple[dict[int, str], ...]


class OfImage(nn.Module):
    def __init__(self, tower: Any, pooled_only: bool = False) -> None:
        super().__init__()
        self.tower, self.options = tower, {"pooled_only": True} if pooled_only else {}

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.tower(Image(pixels=pixels), **self.options)
        return tokens.states, tokens.pooled


class OfText(nn.Module):
    def __init__(self, tower: Any, pooled_only: bool = False) -> None:
        super().__init__()
        self.tower, self.options = tower, {"pooled_only": True} if pooled_only else {}

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.tower(Text(ids=ids, mask=mask), **self.options).pooled


class OfPair(nn.Module):
    def __init__(self, vision: Any, text: Any, fusion: Any) -> None:
        super().__init__()
        self.vision, self.text, self.fusion = vision, text, fusion

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        image = self.vision(Image(pixels=pixels))
        fused = self.fusion(self.text(Text(ids=ids, mask=mask)), self.fusion.project_memory(image))
        return fused.states, fused.pooled


class Prefill(nn.Module):
    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, states: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        memory = Tokens(states=states, pooled=states[:, 0])
        logits, cache = self.decoder.step(ids, self.decoder.empty_cache(memory))
        return (logits, *cache.layers) if isinstance(cache, DecoderCache) else (logits,)


class Step(nn.Module):
    def __init__(self, decoder: CausalDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, past: Tensor, memory: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        cache = DecoderCache(layers=list(past.unbind()), memory=CrossAttentionCache(layers=list(memory.unbind())))
        logits, extended = self.decoder.step(ids, cache)
        return logits, torch.stack(extended.layers)


def vit(**options: Any) -> ClipVit:
    return ClipVit(**({"image_size": SIZE, "patch_size": 8, "width": 16, "layers": 2, "heads": 2} | options))


def clip_text(**options: Any) -> ClipText:
    sizes = {"vocabulary_size": WORDS, "context_length": CONTEXT, "width": 16, "layers": 2, "heads": 2}
    return ClipText(**(sizes | options))


def bert(**options: Any) -> BertText:
    return BertText(
        **({"vocabulary_size": WORDS, "context_length": CONTEXT, "width": 16, "layers": 2, "heads": 2} | options)
    )


def fused(fusion: Any, *, text: Any = None, vision: Any = None) -> OfPair:
    text = bert() if text is None else text
    if hasattr(fusion, "share_text_layers"):
        fusion.share_text_layers(text)
    return OfPair(vit() if vision is None else vision, text, fusion)


def decoder(**options: Any) -> CausalDecoder:
    sizes = {"vocabulary_size": WORDS, "context_length": CONTEXT, "width": 16, "layers": 2, "heads": 2}
    return CausalDecoder(**(sizes | {"memory_width": 16} | options))


def coca() -> CocaDecoder:
    built = CocaDecoder(vocabulary_size=WORDS, memory_width=16, context_length=CONTEXT, width=16, layers=2, heads=2)
    text = clip_text(class_token=True)
    built.share_text_layers(text)
    built.text = text  # so that it is in evaluation mode too
    return built


def transformers_text() -> TransformersText:
    config = {
        "model_type": "bert", "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": CONTEXT,
    }  # fmt: skip
    return TransformersText(weights=False, config=config, pool="mean")


def transformers_vision() -> TransformersVision:
    config = {
        "model_type": "vit", "image_size": SIZE, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32,
    }  # fmt: skip
    return TransformersVision(weights=False, config=config, pool="class")


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "clip_vit": lambda: OfImage(vit()),
    "clip_vit pooled": lambda: OfImage(vit(), pooled_only=True),
    "siglip_vit": lambda: OfImage(
        vit(
            pool="attention",
            class_token=False,
            pre_norm=False,
            norm_before_pool=True,
            pool_mlp_ratio=2.0,
            activation="gelu_tanh",
        )
    ),
    "coca_vit": lambda: OfImage(vit(pool="attention", pool_queries=5, pool_heads=2)),
    "clip_vit of another size": lambda: OfImage(vit(image_size=40)),
    "clip_resnet": lambda: OfImage(ClipResNet(image_size=SIZE, layers=(1, 1, 1, 1), stem_width=8, width=12, heads=4)),
    "small_cnn": lambda: OfImage(SmallCnn(image_size=SIZE, channels=8)),
    "timm vit": lambda: OfImage(
        TimmVision(
            name="vit_tiny_patch16_224",
            image_size=SIZE,
            options={"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": SIZE},
        )
    ),
    "timm convolutional": lambda: OfImage(TimmVision(name="test_efficientnet", image_size=SIZE)),
    "torchvision": lambda: OfImage(TorchvisionVision(name="resnet18", image_size=SIZE)),
    "transformers": lambda: OfImage(transformers_vision()),
    "concat": lambda: OfImage(ConcatTower(towers=[vit(), SmallCnn(image_size=SIZE, channels=8)], image_size=SIZE)),
    "vilt_patches": lambda: OfImage(ViltPatches(image_size=SIZE, patch_size=8, width=16)),
    "vilt_patches of another size": lambda: OfImage(ViltPatches(image_size=48, patch_size=8, width=16)),
}
TEXTS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"clip_text {pool}": lambda pool=pool: OfText(clip_text(pool=pool))
        for pool in ("argmax", "end", "first", "last")
    },  # type: ignore[misc]
    "clip_text eot": lambda: OfText(clip_text(pool="eot", eot_id=2)),
    "clip_text pooled": lambda: OfText(clip_text(), pooled_only=True),
    "siglip_text": lambda: OfText(clip_text(causal=False, pool="last", activation="gelu_tanh")),
    "coca_text": lambda: OfText(clip_text(class_token=True)),
    "bert": lambda: OfText(bert()),
    "bert mean": lambda: OfText(bert(pool="mean", token_types=0)),
    "transformers text": lambda: OfText(transformers_text()),
}
PAIRS: dict[str, Callable[[], nn.Module]] = {
    "cross": lambda: fused(CrossFusion(image_width=16, text_width=16, width=24, layers=2, heads=2)),
    "cross max": lambda: fused(CrossFusion(image_width=16, text_width=16, width=16, layers=2, heads=2, pool="max")),
    "grounded": lambda: fused(GroundedFusion(image_width=16, text_width=16, start_id=3), text=bert(memory_width=16)),
    "single_stream": lambda: fused(
        SingleStreamFusion(image_width=16, text_width=16, width=16, layers=2, heads=2),
        text=bert(layers=0),
        vision=ViltPatches(image_size=SIZE, patch_size=8, width=16),
    ),
}
DECODERS: dict[str, Callable[[], nn.Module]] = {
    "causal prefill": lambda: Prefill(decoder()),
    "causal prefill with a start token": lambda: Prefill(decoder(start_id=4, token_types=2)),
    "coca": lambda: Prefill(coca()),
}
NAMES = [*IMAGES, *TEXTS, *PAIRS, *DECODERS, "causal step"]


def pixels_of(batch: int) -> Tensor:
    return torch.randint(
        0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(batch)
    )


def texts_of(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Of different lengths, the longest first; they start with 1, end with 2, the highest id but for padding with 0."""
    generator = torch.Generator().manual_seed(10 * batch + length)
    ids = torch.randint(5, WORDS - 1, (batch, length), generator=generator)
    ends = (length - 1 - torch.arange(batch)).clamp(min=1)
    columns = torch.arange(length)
    ids = torch.where(columns < ends[:, None], ids, 0)
    ids[:, 0] = 1
    ids[torch.arange(batch), ends] = WORDS - 1
    return ids, columns <= ends[:, None]


def build_part(name: str) -> Part:
    torch.manual_seed(0)
    rows = {0: "batch"}
    tokens = {0: "batch", 1: "length"}
    if name in IMAGES:
        return _part(IMAGES[name](), lambda b, t: (pixels_of(b),), rows)
    if name in TEXTS:
        return _part(TEXTS[name](), texts_of, tokens, tokens)
    if name in PAIRS:
        return _part(PAIRS[name](), lambda b, t: (pixels_of(b), *texts_of(b, t)), rows, tokens, tokens)
    if name in DECODERS:
        return _part(DECODERS[name](), lambda b, t: (torch.randn(b, 5, 16), texts_of(b, t)[0]), rows, tokens)

    def of_step(batch: int, length: int) -> tuple[Tensor, ...]:
        past, memory = torch.randn(2, batch, 2, 2, length - 1, 8), torch.randn(2, batch, 2, 2, 5, 8)
        return past, memory, texts_of(batch, length)[0][:, -1:]

    return _part(Step(decoder()), of_step, {1: "batch", 4: "length"}, {1: "batch"}, rows)


def _part(module: nn.Module, inputs: Callable[[int, int], tuple[Tensor, ...]], *dynamic: dict[int, str]) -> Part:
    return Part(module.eval(), inputs, dynamic)
