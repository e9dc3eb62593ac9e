"""Settings of towers that the shapes of their tensors do not show: activation, heads, epsilon of norms, pooling, normalisation.

Where a file does not contain one, its usual value is assumed, and a warning names it. A run that starts from weights with
others than its own is warned as well.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlp.build import ALLOWED_IN_FILES, build
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.system import ranks
from vlp.upgrade import upgrade_target

# open_clip's ViT-H, g and bigG; of all other published towers of CLIP a head is 64 wide
HEADS_OF_WIDTH = {1280: 16, 1408: 16, 1664: 16}
_ACTIVATIONS = {
    "QuickGelu()": "quick_gelu", "GELU(approximate='none')": "gelu", "GELU(approximate='tanh')": "gelu_tanh",
}  # fmt: skip
_END = ("argmax", "eot", "end")  # three rules for one token, the end of the text


def assumed_for_clip(model: dict[str, Any], given: dict[str, Any]) -> dict[str, str]:
    """What a state dict of CLIP's does not contain, by setting, in words.  given: the settings that are known."""
    assumed = {}
    if given.get("activation") is None:
        name = model["text"]["activation"]
        other = "gelu, open_clip's default" if name == "quick_gelu" else "quick_gelu, OpenAI's"
        assumed["activation"] = f"activation={name} (the other is {other})"
    width = model["vision"].get("width")
    if given.get("vision_heads") is None and "patch_size" in model["vision"] and width in HEADS_OF_WIDTH:
        assumed["vision_heads"] = f"vision_heads={HEADS_OF_WIDTH[width]}"
    if assumed:
        assumed["heads"] = "otherwise one head for each 64 of a tower's width"
        assumed["text_pool"] = "texts pooled at their highest token id"
        assumed["preprocessing"] = "OpenAI's resizing, mean and standard deviation of images"
    return assumed


def warn_of_assumptions(checkpoint: Checkpoint, path: Path) -> None:
    """One warning, where there is anything to warn of."""
    if not checkpoint.assumed:
        return
    name = next((name for name in ("activation", "vision_heads", "heads") if name in checkpoint.assumed), None)
    name = "vision_heads" if name == "heads" else name
    ways = f"vlp.load(…, {name}=…), evaluate.py architecture.{name}=…, or the format's own config file beside it"
    choose = ways if name else "put the file that its images were preprocessed with beside it"
    values = "; ".join(checkpoint.assumed.values())
    ranks.warn_once(f"{path} does not contain all of its settings; assumed: {values}; to choose others: {choose}")


def describe_differences(checkpoint: Checkpoint, model: nn.Module, path: Path) -> list[str]:
    """Settings of the file's towers that are not the model's, in sentences. Warns of the model's settings that are
    used because the file has none."""
    sentences, used = [], []
    for name in ("vision", "text"):
        node, tower = checkpoint.config["model"].get(name) or {}, getattr(model, name, None)
        ours = f"{type(tower).__module__}.{type(tower).__qualname__}"
        if upgrade_target(node.get("_target_")) != ours or "config" in node or node.get("weights"):
            continue
        with torch.device("meta"):
            theirs = tower_settings(build(node, allow=ALLOWED_IN_FILES))
        for key in ("mean", "std"):
            value = node.get(key) or getattr(inspect.signature(type(tower)).parameters.get(key), "default", None)
            theirs |= {key: _rounded(value)} if value else {}
        for key, value in tower_settings(tower).items():
            if {key, f"{name}_{key}"} & checkpoint.assumed.keys():
                used.append(f"model.{name}.{key}={value}")
            elif key in theirs and theirs[key] != value:
                sentences.append(
                    f"was trained with {name} {key}={theirs[key]}, and the run uses model.{name}.{key}={value}"
                )
    if used:
        message = f"does not contain these settings, so the run's are used: {', '.join(used)}; set those that it was trained with"
        ranks.warn_once(f"checkpoint={path} {message}")
    return sentences


def assume_heads(checkpoint: Checkpoint) -> None:
    """Adds the rule for heads to what is assumed where a tower is of no published width."""
    towers = [checkpoint.config["model"].get(name) or {} for name in ("vision", "text", "decoder")]
    if any("heads" in node and node["heads"] is None and node["width"] not in (768, 1024) for node in towers):
        checkpoint.assumed["heads"] = "one head for each 64 of a tower's width (vision_heads, text_heads)"


def tower_settings(tower: Any) -> dict[str, Any]:
    """Of vlp's own towers."""
    modules = list(tower.modules())
    settings: dict[str, Any] = {}
    for module in modules:
        if (activation := _ACTIVATIONS.get(repr(getattr(module, "activation", None)))) is not None:
            settings.setdefault("activation", activation)
        if isinstance(heads := getattr(module, "heads", None), int):
            settings.setdefault("heads", heads)
        if isinstance(module, nn.LayerNorm):
            settings.setdefault("norm_eps", module.eps)
    for name in ("causal", "norm_before_pool", "norm_states"):
        if isinstance(value := getattr(tower, name, None), bool):
            settings[name] = value
    if isinstance(pool := getattr(tower, "pool", None), str):
        settings["pool"] = "end" if pool in _END else pool
    normalize = getattr(tower, "normalize", None)
    if normalize is not None and not normalize.mean.is_meta:
        settings |= {"mean": _rounded(normalize.mean.flatten()), "std": _rounded(normalize.std.flatten())}
    return settings


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
