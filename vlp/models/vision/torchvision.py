"""Any classification backbone of torchvision (resnet50, convnext_tiny, …), its last linear layer taken off.

states: the map that enters the network's average pooling.  pooled: what entered that last linear layer; layers between the two
can make it wider (MobileNet, VGG). Images of every size and shape are taken.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision.models as library
from einops import rearrange
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from vlp.models.vision.resnet import WeightSettings
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError
from vlp.system.weight_files import describe_damage


class TorchvisionVision(WeightSettings):
    """name: torchvision's.  weights: 'DEFAULT' or another of its names (downloaded), the path of a state dict, or None
    for random.  Normalisation and image_size are those of the named weights (of the default ones for None and a path).

    mean, std: of RGB in [0, 1].  stride_in_1x1: see `set_stride` in resnet.py. None = as the weights need it, whether named here or
    read from a checkpoint.
    """

    def __init__(
        self,
        *,
        name: str,
        weights: str | None = None,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        stride_in_1x1: bool | None = None,
    ) -> None:
        super().__init__()
        if name not in library.list_models(module=library):
            raise UserError(
                f"torchvision has no classification model {name!r}; torchvision.models.list_models() shows all"
            )
        known = library.get_model_weights(name)
        chosen = known[weights] if weights in known.__members__ else known.DEFAULT
        model = library.get_model(name)
        if weights is not None:
            model.load_state_dict(_read_state(name, weights, known))
        preset = chosen.transforms()
        self.name, self.image_size = name, image_size or preset.crop_size[0]
        self.width = _remove_head(model, name)
        # the graph calls the parts of the network as the modules they are, so that `levels` can name any module in them
        options = {"leaf_modules": list({type(part) for part in model.children()})}
        nodes = get_graph_node_names(model, tracer_kwargs=options)[0]
        if "avgpool" not in nodes:
            raise UserError(
                f"torchvision's {name} has no average pooling to read its map from; timm has many such models"
            )
        outputs = {nodes[nodes.index("avgpool") - 1]: "map", nodes[-1]: "pooled"}
        self.backbone = create_feature_extractor(model, outputs, tracer_kwargs=options)
        self.states_width = self._measure_states_width()
        self.set_settings(mean, std, stride_in_1x1, default=(preset.mean, preset.std))

    def forward(self, image: Image) -> Tokens:
        output = self.backbone(self.normalize(image))
        rows, columns = output["map"].shape[-2:]
        states = rearrange(output["map"], "b d h w -> b (h w) d")
        return Tokens(states=states, pooled=output["pooled"].flatten(1), grid=(rows, columns))

    @torch.no_grad()
    def _measure_states_width(self) -> int:
        was_training = self.backbone.training
        self.backbone.eval()
        width = self.backbone(torch.zeros(1, 3, self.image_size, self.image_size))["map"].shape[1]
        self.backbone.train(was_training)
        return width

    def architecture(self) -> dict[str, Any]:
        return {"name": self.name, "weights": None, "image_size": self.image_size, **self.settings()}


def _read_state(name: str, weights: str, known: Any) -> dict[str, torch.Tensor]:
    if Path(weights).is_file():
        if (wrong := describe_damage(Path(weights))) is not None:
            raise UserError(f"model.vision.weights: {weights} {wrong}")
        try:
            return torch.load(weights, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"model.vision.weights: {weights} is no state dict of torch; give a file of Detectron2 as checkpoint={weights}"
            ) from error
    if weights not in known.__members__ and weights != "DEFAULT":
        names = ", ".join(["DEFAULT", *known.__members__])
        raise FileNotFoundError(f"weights={weights!r} is neither a file nor one of {names}, torchvision's for {name}")
    try:
        return known[weights].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise FileNotFoundError(
            f"torchvision's weights {name}/{weights} could not be downloaded ({error}): fetch {known[weights].url} "
            "where there is network, and give its path as model.vision.weights"
        ) from error


def _remove_head(model: nn.Module, name: str) -> int:
    """Replaces the last linear layer by the identity, and returns its input width."""
    path, head = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return head.in_features
