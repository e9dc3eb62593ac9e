"""Any checkpoint that vlp reads → an original's file, a Hugging Face folder or our file; there and back is bit-equal."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from vlp.checkpoints import (
    albef,
    blip,
    clip,
    hugging_face,
    hugging_face_blip,
    hugging_face_eomt,
    hugging_face_owl,
    hugging_face_siglip,
    hugging_face_vilt,
    load,
    sharded,
    vilt,
)
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.mixing import mix_checkpoints
from vlp.checkpoints.settings import warn_of_assumptions
from vlp.system.errors import UserError

WRITERS = {"albef": albef.write, "blip": blip.write, "vilt": vilt.write}
FORMATS = ("hugging_face", "openai", *WRITERS, "vlp")


def convert(
    source: Path, destination: Path, format: str, *, mix: tuple[Path, float] | None = None, **architecture: Any
) -> None:
    """destination: a new folder for hugging_face, a new file for the others.  mix: another checkpoint and its share, from 0 to 1:
    what is written lies between the two."""
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")
    source, destination = Path(source), Path(destination)
    if destination.is_file() or (destination.is_dir() and (format != "hugging_face" or any(destination.iterdir()))):
        raise FileExistsError(f"{destination} exists: give a new place to write to")
    checkpoint = load.read(source, architecture)
    warn_of_assumptions(checkpoint, source)
    if mix is not None:
        checkpoint = mix_checkpoints(checkpoint, load.read(Path(mix[0]), architecture), mix[1])
    load.build_model(checkpoint)  # nothing is written that does not load
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as unfinished:
        _write(checkpoint, None if mix else source, Path(unfinished) / destination.name, format)
        written = sorted(Path(unfinished).iterdir(), key=lambda path: path.name == destination.name)
        for path in written:  # what tells of a file before the file
            os.replace(path, destination.with_name(path.name))


def _write(checkpoint: Checkpoint, source: Path | None, destination: Path, format: str) -> None:
    if format == "vlp" and source is not None and sharded.is_sharded(source):
        return torch.save(sharded.read(source), destination)  # with all that a run needs to continue
    if format == "vlp":
        return load.save(checkpoint, destination)
    checkpoint.heads.pop("retrieval.mix", None)  # how it was measured, of which other formats know nothing
    if format in WRITERS:
        return WRITERS[format](checkpoint, destination)
    config = _pooled_at_end_token(checkpoint)
    if format == "openai":
        return clip.write(config, checkpoint.state, destination)
    fusion = (config["model"].get("fusion") or {}).get("_target_", "")
    if fusion.endswith(".SingleStreamFusion"):
        hugging_face_vilt.write(checkpoint, destination)
    elif fusion.endswith(".GroundedFusion") or config["model"].get("decoder"):
        hugging_face_blip.write(checkpoint, destination)
    elif hugging_face_owl.fits(checkpoint):
        hugging_face_owl.write(config, checkpoint.state, checkpoint.heads, destination)
    elif (config["model"].get("vision") or {}).get("_target_", "").endswith(".EomtVit"):
        hugging_face_eomt.write(checkpoint, destination)
    elif (config["model"].get("vision") or {}).get("pool") == "attention":
        hugging_face_siglip.write(config, checkpoint.state, destination)
    else:
        hugging_face.write(config, checkpoint.state, destination)
    if checkpoint.tokenizer_json is not None:
        (destination / load.TOKENIZER).write_text(checkpoint.tokenizer_json)


def _pooled_at_end_token(checkpoint: Checkpoint) -> dict[str, Any]:
    """The other formats find the end of a text by its id, not by a mask."""
    config = copy.deepcopy(checkpoint.config)
    text = config["model"].get("text") or {}
    if text.get("_target_", "").endswith(".ClipText") and text.get("pool", "end") == "end":
        if checkpoint.tokenizer_json is None:
            raise UserError("this checkpoint pools text at its last real token and has no tokenizer to tell its id")
        text |= {"pool": "eot", "eot_id": json.loads(checkpoint.tokenizer_json)["end_id"]}
    return config
