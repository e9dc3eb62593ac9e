"""A frozen tower read at several depths, its features computed once for each different input.

Early levels hold texture, colour and single words, late ones objects and complete sentences. On a few thousand pairs a
linear map from the mean of each level beats one from the last level by several points of recall, and costs a
thousandth of tuning the tower (experiments/flickr8k_transfer). Related: head-to-toe probing, Evci et al.,
arXiv:2201.03529, which joins the pooled features of all layers of a frozen network.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp.models.equal_inputs import content_keys
from vlp.models.feature_store import FeatureStore, fingerprint
from vlp.models.levels import channels_first, kept_outputs, raster, require_modules
from vlp.models.tokens import masked_mean
from vlp.models.vision.positions import Grid
from vlp.models.vlm import tower_config
from vlp.structures import Image, Text, Tokens, height_and_width
from vlp.system.errors import UserError

_FORMAT = 2  # increase it with any change of this file or of a tower's code that changes features


class FrozenLevels(nn.Module):
    """tower: any vision or text tower.  levels: modules inside it by name, such as `backbone.blocks.5`, whose outputs
    (rasters, channels first, or tokens) are averaged, normalised and joined in this order.
    tokens: the states are each token's levels, normalised and joined likewise, for a fusion; else the pooled feature alone.
    cells: rows and columns that rasters of all levels are averaged to, so that they can be joined cell by cell.
    image_size: of the images that come, pixels a side or [height, width]; they are resized (bicubic) to the tower's. None = the
    tower's, which then sees images of any size as they are, if it can.
    mirror: the mean of the features of an image and of its mirror image.
    keep: for how many inputs the features are cached, the oldest are dropped first: a frozen tower is a function of pixels
    or token ids. The last bits may depend on what else is in the batch, so with PyTorch's deterministic algorithms
    (trainer.deterministic) each input goes through the tower alone: what a run caches then never depends on the inputs
    that it, or another run, had before.
    folder: where the cache is also written to disk, for other runs with the same tower and the same inputs. It grows
    without bound and may be deleted between runs; where it cannot be used, a warning says so and features are computed.
    None = nowhere.
    bf16: run the tower in bfloat16 and cache in half precision.
    """

    def __init__(
        self,
        *,
        tower: Any,
        levels: Sequence[str],
        tokens: bool = False,
        cells: int | None = None,
        image_size: int | Sequence[int] | None = None,
        mirror: bool = False,
        keep: int = 0,
        folder: str | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        require_modules(tower, levels)
        # convolutions on a CPU are twice as fast with channels last
        self.tower = tower.requires_grad_(False).to(memory_format=torch.channels_last)
        if tokens and mirror:
            raise UserError("tokens=true: the regions of an image are not those of its mirror image; set mirror=false")
        self.levels, self.tokens, self.cells = list(levels), tokens, cells
        self.mirror, self.keep, self.folder, self.bf16 = mirror, keep, folder, bf16
        self._grids: dict[Grid, Grid | None] = {}  # of the states, by the images' height and width
        self._cache, self._cache_dtype = _FeatureCache(), torch.half if bf16 else torch.float
        if hasattr(tower, "image_size"):
            self.image_size: Any = image_size or tower.image_size
            self.channels_last = getattr(tower, "channels_last", False)
            resized = getattr(tower, "positions_size", None) is not None
            self.positions_size = self.image_size if resized else None
        else:
            self.channels_last = False
            self.context_length, self.vocabulary_size = tower.context_length, tower.vocabulary_size
        self.register_load_state_dict_post_hook(_clear_fingerprint)
        self.train(False)
        self.width = self._compute_features(self._example_input())[0].shape[1]

    def _example_input(self) -> Image | Text:
        if hasattr(self, "image_size"):
            return Image(pixels=torch.zeros(1, 3, *height_and_width(self.image_size), dtype=torch.uint8))
        return Text(ids=torch.zeros(1, 4, dtype=torch.long), mask=torch.ones(1, 4, dtype=torch.bool))

    def train(self, mode: bool = True) -> FrozenLevels:
        super().train(mode)
        self.tower.eval()
        return self

    def forward(self, inputs: Image | Text) -> Tokens:
        """Without `tokens` the pooled feature is also the one token."""
        rows = self._cached_features(inputs) if self.keep else self._compute_features(inputs)
        pooled = torch.stack([row[0] for row in rows])
        if not self.tokens:
            return Tokens(states=pooled.unsqueeze(1), pooled=pooled)
        states = nn.utils.rnn.pad_sequence([row[1:] for row in rows], batch_first=True)
        if isinstance(inputs, Text):
            width = states.shape[1]
            return Tokens(states=states, pooled=pooled, mask=inputs.mask[:, :width], ids=inputs.ids[:, :width])
        return Tokens(states=states, pooled=pooled, grid=self._states_grid(inputs.pixels))

    def encode_uncached(self, text: Text) -> Tokens:
        """The pooled feature of texts, computed with gradients: for vectors in place of their tokens' embeddings."""
        pooled = self._level_features(text, text.mask)[0][:, 0]
        return Tokens(states=pooled.unsqueeze(1), pooled=pooled)

    def _states_grid(self, pixels: Tensor) -> Grid | None:
        """Of the states of images [b c h w]: features that come from a cache do not tell it, so a blank image may be run."""
        size: Grid = (pixels.shape[2], pixels.shape[3])
        if size not in self._grids:
            self._compute_features(Image(pixels=torch.zeros(1, 3, *size, dtype=torch.uint8, device=pixels.device)))
        return self._grids[size]

    def _cached_features(self, inputs: Image | Text) -> list[Float[Tensor, "_ d"]]:
        keys = [self._fingerprint + key for key in content_keys(inputs)]
        first_index = {key: index for index, key in enumerate(keys) if key not in self._cache}  # each input once
        if first_index and self._store is not None:
            self._cache.update(self._store.read(first_index))
        missing = [(key, index) for key, index in first_index.items() if key not in self._cache]
        device = next(self.tower.parameters()).device
        rows = _tower_batch_size(inputs, device, len(missing))
        for start in range(0, len(missing), rows):
            chunk = missing[start : start + rows]
            computed = self._compute_features(inputs.select([index for _, index in chunk]))
            # copied, because a slice would keep the memory of all rows of its batch
            rows_cpu = [row.to("cpu", self._cache_dtype, copy=True) for row in computed]
            fresh = dict(zip((key for key, _ in chunk), rows_cpu, strict=True))
            self._cache.update(fresh if self._store is None else fresh | self._store.write(fresh))
        features = [self._cache[key].to(device).float() for key in keys]
        for key in list(self._cache)[: max(0, len(self._cache) - self.keep)]:
            del self._cache[key]
        return features

    @functools.cached_property
    def _store(self) -> FeatureStore | None:
        if self.folder is None:
            return None
        return FeatureStore(self.folder, self._fingerprint.hex(), width=self.width, dtype=self._cache_dtype)

    @functools.cached_property
    def _fingerprint(self) -> bytes:
        """Of everything that the features depend on except the input."""
        size = getattr(self, "image_size", None)
        read = [_FORMAT, self.levels, self.tokens, self.cells, size, self.mirror, self.bf16, self.tower.architecture()]
        read += [torch.are_deterministic_algorithms_enabled()]
        read += [next(self.tower.parameters()).device.type, torch.__version__, version("timm"), version("transformers")]
        return bytes.fromhex(fingerprint(self.tower, str(read)))

    @torch.no_grad()
    def _compute_features(self, inputs: Image | Text) -> list[Float[Tensor, "_ d"]]:
        """Of each input the pooled feature and, with `tokens`, those of its real tokens after it."""
        if isinstance(inputs, Image):
            pixels, size = inputs.pixels, height_and_width(self.tower.image_size)
            if size != height_and_width(self.image_size):
                pixels = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
                pixels = pixels.round().clamp(0, 255).byte()
            features, grid = self._level_features(Image(pixels=pixels), None)
            self._grids[inputs.pixels.shape[2], inputs.pixels.shape[3]] = grid
            if self.mirror:
                features = (features + self._level_features(Image(pixels=pixels.flip(-1)), None)[0]) / 2
            return list(features)
        features, _ = self._level_features(inputs, inputs.mask)
        if not self.tokens:
            return list(features)
        return [row[: 1 + count] for row, count in zip(features, inputs.mask.sum(1).tolist(), strict=True)]

    def _level_features(
        self, inputs: Image | Text, mask: Bool[Tensor, "b t"] | None
    ) -> tuple[Float[Tensor, "b n d"], Grid | None]:
        """And the raster that the tokens are, at the end of them; None where they are none."""
        device = next(self.tower.parameters()).device.type
        with (
            kept_outputs(self.tower, self.levels) as outputs,
            torch.autocast(device, torch.bfloat16, enabled=self.bf16),
        ):
            tokens = self.tower(inputs)
        found = [outputs[level].float() for level in self.levels]
        found = [self._unpack_level(level, tokens) for level in found]
        rows = [_pool_level(level, mask).unsqueeze(1) for level in found]
        if self.tokens:
            rows = [
                torch.cat([pooled, self._level_tokens(level)], 1) for pooled, level in zip(rows, found, strict=True)
            ]
        lengths = {level.shape[1] for level in rows}
        if len(lengths) > 1:
            raise UserError(f"the levels {self.levels} have different numbers of tokens: give cells, or other levels")
        grid: Grid | None = None
        if found[0].ndim == 4:
            grid = (found[0].shape[2], found[0].shape[3]) if self.cells is None else (self.cells, self.cells)
        elif found[0].ndim == 3 and tokens.grid is not None:
            grid = raster(found[0].shape[1], tokens.grid, tokens.states.shape[1])
        return torch.cat([F.layer_norm(level, level.shape[2:]) for level in rows], dim=2), grid

    def _unpack_level(self, level: Tensor, tokens: Tokens) -> Tensor:
        """[b d h w], [b n d] or [b d]."""
        if level.ndim == 4:
            return channels_first(level, tokens.grid, self.channels_last)
        if level.ndim == 2 and len(level) != len(
            tokens.pooled
        ):  # blocks of our towers have all tokens in one row after another
            if len(level) != tokens.states.shape[:2].numel():
                raise UserError(
                    f"one of the levels {self.levels} has its texts packed without padding: choose the last level"
                )
            return level.unflatten(0, tokens.states.shape[:2])
        return level

    def _level_tokens(self, features: Tensor) -> Float[Tensor, "b n d"]:
        if features.ndim == 4:
            cells = features if self.cells is None else F.adaptive_avg_pool2d(features, self.cells)
            return rearrange(cells, "b d h w -> b (h w) d")
        if features.ndim == 2:
            raise UserError(f"one of the levels {self.levels} is a single vector, which has no tokens")
        return features

    def architecture(self) -> dict[str, Any]:
        return {
            "tower": tower_config(self.tower),
            "levels": self.levels,
            "tokens": self.tokens,
            "cells": self.cells,
            "image_size": getattr(self, "image_size", None),
            "mirror": self.mirror,
            "keep": 0,
            "folder": None,
            "bf16": self.bf16,
        }


def _tower_batch_size(inputs: Image | Text, device: torch.device, missing: int) -> int:
    if torch.are_deterministic_algorithms_enabled():
        return 1
    if device.type != "cpu":
        return max(1, missing)
    # larger batches are slower there, as each of their activations is fresh memory from the system
    return 8 if isinstance(inputs, Image) else 64


class _FeatureCache(dict[bytes, Tensor]):
    """Shared by copies of the model, such as a moving average of the weights; its keys name the tower's weights too."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _FeatureCache:
        return self


def _clear_fingerprint(module: nn.Module, _: Any) -> None:
    for name in ("_fingerprint", "_store"):
        module.__dict__.pop(name, None)


def _pool_level(features: Tensor, mask: Bool[Tensor, "b t"] | None) -> Float[Tensor, "b d"]:
    if features.ndim == 4:
        return features.mean((2, 3))
    if features.ndim == 2:
        return features
    return masked_mean(features, mask)
