"""What every reader of a foreign format returns, and what is made of it: our config and tensors under our names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlp.checkpoints.keys import State


@dataclass
class Checkpoint:
    """config: `model`, and where the file has them `transform`, `tokenizer` (without its vocabulary) and `objectives`, as
    plain dicts.  state: the model's tensors, of the file's own precision.  heads: those of the objectives.  momentum:
    those of `MomentumCopy`.  vocabulary: a folder with the tokenizer's files.  antialias: how the original resizes position
    embeddings to another image size (both bicubic).  assumed: settings that the file does not contain, by name, with their
    values in words.
    """

    config: dict[str, Any]
    state: State
    heads: State = field(default_factory=dict)
    momentum: State = field(default_factory=dict)
    tokenizer_json: str | None = None
    vocabulary: Path | None = None
    antialias: bool = True
    assumed: dict[str, str] = field(default_factory=dict)


def eval_transform(image_size: int | list[int], mode: str = "clip", **options: Any) -> dict[str, Any]:
    """`transform` of a config: "clip" = shorter side and centre, "squash" = the whole image made of this size."""
    target = "vlp.data.transforms.EvalTransform"
    return {"eval": {"_target_": target, "image_size": image_size, "mode": mode, **options}}
