"""transformers' ViLT folders give transformers' numbers, and transformers reads what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from tests.checkpoints.fixtures import arrays
from tests.checkpoints.vilt_numbers import close, opened
from vlp.checkpoints import hugging_face_vilt, load
from vlp.structures import Batch, Image, Text


@pytest.mark.parametrize("name", ["mlm", "irtr", "vqa", "nlvr2"])
@torch.no_grad()
def test_the_numbers_of_transformers(shared: Path, tmp_path: Path, name: str) -> None:
    """Of a folder of theirs, and of the one that is written from it, which transformers reads too."""
    folder = shared / "reference" / "hf" / f"vilt_{name}"
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    hugging_face_vilt.write(load.read(folder, {}), tmp_path)
    theirs = getattr(transformers, json.loads((tmp_path / "config.json").read_text())["architectures"][0])
    again = theirs.from_pretrained(tmp_path, local_files_only=True).eval()
    own = {key: value for key, value in inputs.items() if key != "labels"}
    close(again(**own).logits, expected["logits"], 2e-5)
    for path in (folder, tmp_path):
        _, model, heads = opened(path)
        mask = inputs["pixel_mask"].bool()
        size = torch.stack([mask.any(-1).sum(-1), mask.any(-2).sum(-1)], dim=-1)
        words = Text(ids=inputs["input_ids"], mask=inputs["attention_mask"].bool())
        pixels = Image(pixels=inputs["pixel_values"], size=size)
        head = heads[name]
        if name == "nlvr2":
            ids = torch.arange(len(size))
            logits = head.logits(model, Batch(id=ids, sample=ids, seed=ids, image=pixels, question=words))
            close(logits, expected["logits"])
            continue
        memory = model.project_memory(model.encode_image(pixels))
        if name == "mlm":
            close(head.logits(model, words, memory, words.mask), expected["logits"][words.mask], 2e-5)
        elif name == "irtr":
            close(head.pair_score(model, model.encode_text(words), memory)[:, None], expected["logits"])
        else:
            fused = model.fuse(model.encode_text(words), memory)
            close(fused.pooled, expected["pooler_output"])
            last = model.fusion.norm(expected["text_last_hidden"][words.mask])  # recorded before the last norm
            close(fused.states[:, : words.ids.shape[1]][words.mask], last)
            logits = head.classifier(fused.pooled)
            close(logits, expected["logits"])
            loss = F.binary_cross_entropy_with_logits(logits, inputs["labels"]) * logits.shape[1]
            close(loss, expected["loss"])


def test_one_of_several_heads_is_named(shared: Path, tmp_path: Path) -> None:
    checkpoint = load.read(shared / "reference" / "vilt" / "pretrain" / "checkpoint.ckpt", {})
    with pytest.raises(ValueError, match=r"holds one head of .* but here are itm, mlm: give head="):
        hugging_face_vilt.write(checkpoint, tmp_path)
    hugging_face_vilt.write(checkpoint, tmp_path, head="mlm")
    again = load.read(tmp_path, {})
    assert all(torch.equal(again.heads[key], checkpoint.heads[key]) for key in again.heads)
    assert again.heads.keys() == {key for key in checkpoint.heads if key.startswith("mlm.")}
