"""Any backbone of timm without its classifier, with the normalisation that its weights were trained with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.tokens import check_pool, raster_mean
from vlp.models.vision.normalize import Normalize
from vlp.structures import Image, Tokens, height_and_width
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object
from vlp.system.weight_files import describe_damage
from vlp.system.weight_folders import choose_weights

_MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_NAMES = ("model.safetensors", "pytorch_model.bin")  # timm's, of its folders


class TimmVision(nn.Module):
    """name: timm's (`vit_small_patch16_224.augreg_in21k`), or a local folder with timm's `config.json`.
    weights: 'pretrained' = timm's own (downloaded) or those in the folder; the path of a file; None = random.
    pool: 'tower' = the backbone's own; 'average' = the mean over the raster.
    global_pool: timm's name of another pooling of the finished backbone (`reset_classifier`), as open_clip chooses it; in
    `options` it would change the backbone, too.
    options: further arguments of `timm.create_model`, such as drop_path_rate.
    mean, std, image_size: None = those of the weights.
    memory_format: 'contiguous', or 'channels_last', which is faster for most convolutions on a CPU.

    Images of other sizes and shapes are taken where timm's backbone can: a transformer is built with its `dynamic_img_size`, by
    which position embeddings are resized (timm: bicubic, smoothed when the grid shrinks) and windows padded, and sees its complete
    patches; of a convolutional one every size is.
    """

    def __init__(
        self,
        *,
        name: str,
        weights: str | None = None,
        pool: str = "tower",
        image_size: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: dict[str, Any] | None = None,
        global_pool: str | None = None,
        memory_format: str = "contiguous",
    ) -> None:
        super().__init__()
        check_pool(pool, ("tower", "average"))
        if memory_format not in _MEMORY_FORMATS:
            raise UserError(f"memory_format={memory_format} of a tower: choose {' or '.join(_MEMORY_FORMATS)}")
        folder = Path(name) if (Path(name) / "config.json").is_file() else None
        file_config = read_json_object(folder / "config.json") if folder else {}
        self.name, self.pool = file_config.get("architecture", name), pool
        self.options = file_config.get("model_args", {}) | dict(options or {})
        file = _weights_file(folder, weights)
        backbone: Any = self._create_backbone(image_size, download=weights == "pretrained" and file is None)
        self.backbone = backbone
        self.global_pool = global_pool
        if global_pool is not None:
            backbone.reset_classifier(0, global_pool=global_pool)
        if file is not None:
            _load_backbone(self.backbone, file)
        settings = file_config.get("pretrained_cfg", {})
        data = timm.data.resolve_model_data_config(self.backbone) | _pretrained_settings(settings)
        self.normalize = Normalize(mean=mean or data["mean"], std=std or data["std"])
        self.image_size: Any = image_size or data["input_size"][-1]
        self.positions_size = self.image_size if getattr(backbone, "pos_embed", None) is not None else None
        self.channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        self.width, self.states_width = self._measure_widths()
        self.memory_format = memory_format
        self.backbone.to(memory_format=_MEMORY_FORMATS[memory_format])

    def _create_backbone(self, image_size: int | Sequence[int] | None, download: bool) -> nn.Module:
        if not timm.is_model(self.name):
            close = ", ".join(timm.list_models(f"*{self.name[:8]}*")[:5])
            raise UserError(
                f"{self.name!r} is neither a model of timm nor a folder with timm's config.json; close: {close}"
            )
        settings = timm.get_pretrained_cfg(self.name)
        size: dict[str, Any] = {}
        # a network of fixed size takes another one when it is built
        fixed = settings.input_size[1:] if settings is not None and settings.fixed_input_size else None
        if image_size and fixed and height_and_width(image_size) != fixed:
            size = {"img_size": height_and_width(image_size)}
        create = functools.partial(timm.create_model, self.name, pretrained=download, num_classes=0)
        try:
            try:  # the same parameters, and not refused by images of another size
                return create(**{"dynamic_img_size": True, **self.options, **size})
            except TypeError:  # a backbone without this option
                return create(**self.options, **size)
        except (OSError, RuntimeError) as error:
            if not download:
                raise
            raise FileNotFoundError(
                f"the hub did not give the weights of timm's {self.name} ({str(error).splitlines()[0]}): download them "
                "where there is network, and give the folder as model.vision.name or the file as model.vision.weights"
            ) from error

    @torch.no_grad()
    def _measure_widths(self) -> tuple[int, int]:
        """Of the pooled feature and of the states, which differ where the head has layers of its own (MobileNetV3)."""
        was_training = self.backbone.training
        self.backbone.eval()
        size = height_and_width(self.image_size)
        features = self.backbone.forward_features(torch.zeros(1, 3, *size))
        widths = self._pool_features(features, size).shape[-1], self._to_token_states(features, size)[0].shape[-1]
        self.backbone.train(was_training)
        return widths

    def forward(self, image: Image) -> Tokens:
        pixels = self.normalize(image)
        size: tuple[int, int] = (pixels.shape[2], pixels.shape[3])
        features = self._map_pixels(pixels, size)
        states, grid = self._to_token_states(features, size)
        return Tokens(states=states, pooled=self._pool_features(features, size), grid=grid)

    def _map_pixels(self, pixels: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Tensor:
        """What the backbone makes of its complete patches."""
        patches = getattr(self.backbone, "patch_embed", None)
        side = getattr(patches, "patch_size", None)
        if (
            getattr(self.backbone, "dynamic_img_size", False)
            and side
            and not getattr(patches, "dynamic_img_pad", False)
        ):
            pixels = pixels[..., : size[0] // side[0] * side[0], : size[1] // side[1] * side[1]]
        try:
            return self.backbone.forward_features(pixels)
        except (AssertionError, RuntimeError) as error:
            if size == height_and_width(self.image_size) or isinstance(error, torch.OutOfMemoryError):
                raise
            raise UserError(
                f"timm's {self.name} does not take images of {size[0]} x {size[1]} pixels ({str(error).splitlines()[0]}): give the "
                f"transform its size, image_size={self.image_size}"
            ) from error

    def _to_token_states(
        self, features: Tensor, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, int] | None]:
        if features.ndim == 3:
            patches: Any = getattr(self.backbone, "patch_embed", None)
            if not hasattr(patches, "dynamic_feat_size"):
                return features, getattr(patches, "grid_size", None)
            grid = patches.dynamic_feat_size(size)
            return features, grid if grid[0] * grid[1] <= features.shape[1] else None
        if self.channels_last or features.shape[-1] == self.backbone.num_features != features.shape[1]:
            features = rearrange(features, "b h w d -> b d h w")  # Swin's are channels last
        return rearrange(features, "b d h w -> b (h w) d"), (features.shape[2], features.shape[3])

    def _pool_features(self, features: Tensor, size: tuple[int, int]) -> Float[Tensor, "b p"]:
        if self.pool == "average":
            return raster_mean(*self._to_token_states(features, size))
        return self.backbone.forward_head(features, pre_logits=True)

    def architecture(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weights": None,
            "pool": self.pool,
            "image_size": self.image_size,
            "options": self.options,
            "global_pool": self.global_pool,
            "memory_format": self.memory_format,
            **self.normalize.architecture(),
        }


def _pretrained_settings(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in ("mean", "std", "input_size") if key in config}


def _weights_file(folder: Path | None, weights: str | None) -> Path | None:
    if weights is None or (weights == "pretrained" and folder is None):
        return None
    if weights != "pretrained":
        if not Path(weights).is_file():
            raise FileNotFoundError(f"model.vision.weights={weights}: there is no such file")
        return Path(weights)
    patterns = ("*.safetensors", "*.bin", "*.pth")
    files = [file for pattern in patterns if folder for file in sorted(folder.glob(pattern))]
    if not files:
        raise FileNotFoundError(f"{folder} has a config.json but no weights (*.safetensors, *.bin, *.pth)")
    if folder and any(file.name in _NAMES for file in files):
        chosen = choose_weights(folder, _NAMES)
        chosen.warn()
        return next(iter(chosen.files))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{folder} has several files of weights ({names}): choose one with model.vision.weights=FILE")
    return files[0]


def _load_backbone(backbone: nn.Module, file: Path) -> None:
    """All but the classifier, which the tower does not have."""
    if (wrong := describe_damage(file)) is not None:
        raise UserError(f"model.vision.weights: {file} {wrong}")
    state = timm.models.load_state_dict(str(file), weights_only=True)
    missing, extra = backbone.load_state_dict(state, strict=False)
    extra = [key for key in extra if not key.startswith(("fc.", "head.", "classifier.", "head_dist."))]
    if missing or extra:
        raise UserError(f"{file} does not fit the backbone: missing {missing}, unknown {extra}")
