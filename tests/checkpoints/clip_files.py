"""A small CLIP under OpenAI's names, as other codes wrap it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.checkpoints.test_load import MODEL
from vlp.build import build
from vlp.checkpoints import clip
from vlp.checkpoints.keys import to_theirs

CLIP: dict[str, Any] = {**MODEL, "text": MODEL["text"] | {"pool": "argmax"}}


def clip_state(layers: int = 2, **text: int) -> dict[str, Tensor]:
    """OpenAI's names; the towers are 64 wide.  text: options of the text tower."""
    torch.manual_seed(1)
    towers = {name: CLIP[name] | {"layers": layers} for name in ("vision", "text")}
    model = build(CLIP | towers | {"text": towers["text"] | text})
    state = dict(model.state_dict())
    return to_theirs(state, [row for row in clip.key_table(state) if row.ours])
