"""Settings of towers that the shapes of their tensors do not show: activation, heads, epsilon of norms, pooling, normalisation.

Where a file does not contain one, its usual value is assumed, and a warning names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlp.checkpoints.checkpoint import Checkpoint
from vlp.system import ranks

# open_clip's ViT-H, g and bigG; of all other published towers of CLIP a head is 64 wide
HEADS_OF_WIDTH = {1280: 16, 1408: 16, 1664: 16}


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


def assume_heads(checkpoint: Checkpoint) -> None:
    """Adds the rule for heads to what is assumed where a tower is of no published width."""
    towers = [checkpoint.config["model"].get(name) or {} for name in ("vision", "text", "decoder")]
    if any("heads" in node and node["heads"] is None and node["width"] not in (768, 1024) for node in towers):
        checkpoint.assumed["heads"] = "one head for each 64 of a tower's width (vision_heads, text_heads)"
