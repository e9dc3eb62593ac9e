from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from tests.checkpoints.fixtures import arrays, opened, outputs, text
from tests.checkpoints.test_load import MODEL
from vlp.build import build
from vlp.checkpoints import load, tensor_files
from vlp.checkpoints.convert import convert
from vlp.checkpoints.load import Checkpoint


def test_from_openai_to_transformers_and_back(shared: Path, tmp_path: Path) -> None:
    source = shared / "reference" / "openai_clip" / "vit"
    convert(source / "checkpoint.pt", tmp_path / "hf", "hugging_face")
    reference, inputs = transformers.CLIPModel.from_pretrained(tmp_path / "hf").eval(), arrays(source / "inputs.npz")
    with torch.no_grad():
        theirs = reference(input_ids=inputs["text"].long(), pixel_values=inputs["image"]).logits_per_image
    torch.testing.assert_close(theirs, arrays(source / "outputs.npz")["logits_per_image"], atol=2e-5, rtol=0)
    convert(tmp_path / "hf", tmp_path / "back.pt", "openai")
    original, back = tensor_files.read(source / "checkpoint.pt"), tensor_files.read(tmp_path / "back.pt")
    assert original.keys() == back.keys()
    assert [k for k in original if original[k].dtype != back[k].dtype or not torch.equal(original[k], back[k])] == []


def test_from_transformers_to_openai_and_back(shared: Path, tmp_path: Path) -> None:
    """Its heads are not width / 64, so they travel in a JSON beside the file."""
    source = shared / "reference" / "hf" / "clip_quickgelu"
    convert(source, tmp_path / "openai.pt", "openai")
    inputs, expected = arrays(source / "inputs.npz"), arrays(source / "outputs.npz")["logits_per_image"]
    logits = outputs(opened(tmp_path / "openai.pt"), inputs["pixel_values"], text(inputs["input_ids"]))["logits"]
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)
    convert(tmp_path / "openai.pt", tmp_path / "back", "hugging_face")
    original, back = (tensor_files.read(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert [k for k in original if original[k].dtype != back[k].dtype or not torch.equal(original[k], back[k])] == []


def test_what_a_format_cannot_say_is_refused(shared: Path, tmp_path: Path) -> None:
    reference = shared / "reference"
    with pytest.raises(ValueError, match="activation=gelu"):
        convert(reference / "hf" / "clip_gelu_legacy_eos2", tmp_path / "a.pt", "openai")
    siglip = load.read(reference / "open_clip" / "vit_quickgelu", {})
    siglip.config["model"]["projection"]["logit_bias"] = 0.0
    siglip.state["projection.logit_bias"] = torch.tensor(1.0)
    load.save(siglip, tmp_path / "siglip.ckpt")
    with pytest.raises(ValueError, match=r"projection\.logit_bias"):
        convert(tmp_path / "siglip.ckpt", tmp_path / "hf", "hugging_face")
    with pytest.raises(ValueError, match="ClipResNet"):
        convert(reference / "openai_clip" / "rn" / "checkpoint.pt", tmp_path / "rn", "hugging_face")
    assert [path.name for path in tmp_path.iterdir()] == ["siglip.ckpt"], "nothing is left of what was refused"


def test_pooling_at_the_mask_becomes_pooling_at_the_end_tokens_id(tmp_path: Path) -> None:
    model = MODEL | {"text": MODEL["text"] | {"pool": "end"}}
    checkpoint = Checkpoint(config={"model": model}, state=dict(build(model).state_dict()), heads={})
    load.save(checkpoint, tmp_path / "no_tokenizer.ckpt")
    with pytest.raises(ValueError, match="no tokenizer"):
        convert(tmp_path / "no_tokenizer.ckpt", tmp_path / "hf", "hugging_face")
    checkpoint.tokenizer_json = '{"end_id": 17}'
    load.save(checkpoint, tmp_path / "a.ckpt")
    convert(tmp_path / "a.ckpt", tmp_path / "hf", "hugging_face")
    ids = torch.tensor([[1, 18, 5, 17], [1, 4, 17, 0]])
    ours = outputs(opened(tmp_path / "a.ckpt"), torch.randn(1, 3, 16, 16), text(ids))["text"]
    reference = transformers.CLIPModel.from_pretrained(tmp_path / "hf").eval()
    theirs = reference.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"text\.pool=eot"):
        convert(tmp_path / "a.ckpt", tmp_path / "a.pt", "openai")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.pt").touch()
    with pytest.raises(FileExistsError, match="exists"):
        convert(tmp_path / "a.ckpt", tmp_path / "a.pt", "openai")


def test_the_weights_between_two_checkpoints_are_written(shared: Path, tmp_path: Path) -> None:
    source = shared / "reference" / "openai_clip" / "vit" / "checkpoint.pt"
    other = load.read(source, {})
    other.state = {key: value + 2 for key, value in other.state.items()}
    load.save(other, tmp_path / "other.ckpt")
    convert(tmp_path / "other.ckpt", tmp_path / "half.ckpt", "vlp", mix=(source, 0.75))
    mixed, first = load.read(tmp_path / "half.ckpt", {}).state, load.read(source, {}).state
    assert mixed.keys() == first.keys()
    for key, value in mixed.items():
        torch.testing.assert_close(value.float(), first[key].float() + 0.5, atol=2e-3, rtol=0)
