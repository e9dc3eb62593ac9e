"""Files of BLIP's captioner and of its question answering, with one layer and random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.behaviour.documents.layouts import write_vocabulary
from vlp.build import build
from vlp.checkpoints import blip
from vlp.checkpoints.checkpoint import Checkpoint

WIDTH = 64


def write(file: Path) -> None:
    """file: blip_vqa.pth or blip_caption.pth."""
    write_vocabulary(file.parent / "vocab.txt")
    size = len((file.parent / "vocab.txt").read_text().split()) + 2  # [DEC] and [ENC]
    (file.parent / "vocab.txt").unlink()
    layers = {
        "vocabulary_size": size,
        "context_length": 40,
        "width": WIDTH,
        "layers": 1,
        "token_types": 0,
        "memory_width": WIDTH,
    }
    vision = {"image_size": 32, "patch_size": 16, "width": WIDTH, "layers": 1, "norm_eps": 1e-6}
    vision |= {"pre_norm": False, "patch_bias": True, "norm_states": True, "activation": "gelu"}
    model: dict[str, Any] = {
        "_target_": "vlp.models.vlm.VisionLanguageModel",
        "vision": {"_target_": "vlp.models.vision.clip_vit.ClipVit", **vision},
        "decoder": {"_target_": "vlp.models.decoder.causal.CausalDecoder", **layers, "start_id": size - 2},
    }
    if "vqa" in file.name:
        fusion = {"image_width": WIDTH, "text_width": WIDTH, "start_id": size - 1}
        model["text"] = {"_target_": "vlp.models.text.bert.BertText", **layers}
        model["fusion"] = {"_target_": "vlp.models.fusion.grounded.GroundedFusion", **fusion}
    torch.manual_seed(0)
    checkpoint = Checkpoint(config={"model": model}, state=dict(build(model).state_dict()), heads={})
    blip.write(checkpoint, file)
