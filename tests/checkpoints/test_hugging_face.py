from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest
import torch
import transformers

import vlp
from tests.checkpoints.fixtures import arrays, clip_loss, opened, outputs, text
from vlp.checkpoints import tensor_files
from vlp.checkpoints.convert import convert
from vlp.checkpoints.load import load_weights
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.transformers import TransformersVision
from vlp.structures import Image


@pytest.mark.parametrize("name", ["clip_quickgelu", "clip_gelu_legacy_eos2"])
def test_features_logits_and_gradients_of_the_original(shared: Path, name: str) -> None:
    folder = shared / "reference" / "hf" / name
    model, inputs, expected = opened(folder), arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    texts = text(inputs["input_ids"], inputs["attention_mask"])
    ours = outputs(model, inputs["pixel_values"], texts)
    torch.testing.assert_close(ours["image"], expected["get_image_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["text"], expected["get_text_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["logits"], expected["logits_per_image"], atol=2e-5, rtol=0)
    loss = clip_loss(model, inputs["pixel_values"], texts)
    loss.backward()
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)
    projection = model.projection
    torch.testing.assert_close(projection.logit_scale.grad, expected["grad_logit_scale"], atol=1e-5, rtol=0)
    torch.testing.assert_close(projection.text.weight.grad, expected["grad_text_projection"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clip_quickgelu", "clip_gelu_legacy_eos2"])
@torch.no_grad()
def test_there_and_back_is_bit_equal_and_transformers_reads_it(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "reference" / "hf" / name
    convert(source, tmp_path / "ours.ckpt", "vlp")
    convert(tmp_path / "ours.ckpt", tmp_path / "back", "hugging_face")
    equal_files(source / "model.safetensors", tmp_path / "back" / "model.safetensors")
    reference, inputs = transformers.CLIPModel.from_pretrained(tmp_path / "back").eval(), arrays(source / "inputs.npz")
    logits = reference(**{key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values")}).logits_per_image
    torch.testing.assert_close(logits, arrays(source / "outputs.npz")["logits_per_image"], atol=2e-5, rtol=0)


def equal_files(first: Path, second: Path) -> None:
    a, b = tensor_files.read(first), tensor_files.read(second)
    assert a.keys() == b.keys()
    assert [key for key in a if a[key].dtype != b[key].dtype or not torch.equal(a[key], b[key])] == []


def clip_model(act: str, eos: int, **options: object) -> transformers.CLIPModel:
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={"vocab_size": 60, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 3,
                     "hidden_act": act, "num_attention_heads": 5, "max_position_embeddings": 14, "eos_token_id": eos,
                     "bos_token_id": 58, "pad_token_id": 1, "layer_norm_eps": 1e-3},
        vision_config={"hidden_size": 48, "intermediate_size": 50, "num_hidden_layers": 1, "num_attention_heads": 3,
                       "image_size": 42, "patch_size": 14, "hidden_act": act},
        projection_dim=36,
    )  # fmt: skip
    return transformers.CLIPModel(config).eval()


def some_text() -> tuple[torch.Tensor, torch.Tensor]:
    """Padded with 1; the end token, 57, is not the highest id, and the first text has a higher one before it."""
    ids = torch.tensor([[58, 59, 7, 57, 1, 1], [58, 9, 8, 4, 3, 57], [58, 57, 1, 1, 1, 1]])
    return ids, (ids != 1).long()


@pytest.mark.parametrize(("act", "eos"), [("gelu", 57), ("quick_gelu", 2), ("gelu_pytorch_tanh", 57)])
@pytest.mark.parametrize("form", ["safetensors", "bin", "half"])
@torch.no_grad()
def test_other_sizes(tmp_path: Path, act: str, eos: int, form: str) -> None:
    reference = clip_model(act, eos)
    if form == "half":
        reference.half().save_pretrained(tmp_path / "hf")
        reference.float()
    else:
        reference.save_pretrained(tmp_path / "hf")
    if form == "bin":
        (tmp_path / "hf" / "model.safetensors").unlink()
        positions = {f"{part}_model.embeddings.position_ids": torch.arange(9)[None] for part in ("text", "vision")}
        torch.save(reference.state_dict() | positions, tmp_path / "hf" / "pytorch_model.bin")  # as old versions wrote
    model = opened(tmp_path / "hf")
    assert isinstance(model.vision, ClipVit)
    ids, mask = some_text()
    pixels = torch.randn(2, 3, 42, 42)
    expected = reference(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits_per_image
    torch.testing.assert_close(outputs(model, pixels, text(ids, mask))["logits"], expected, atol=2e-5, rtol=1e-5)
    convert(tmp_path / "hf", tmp_path / "back", "hugging_face")
    if form != "bin":
        equal_files(tmp_path / "hf" / "model.safetensors", tmp_path / "back" / "model.safetensors")
    again = transformers.CLIPModel.from_pretrained(tmp_path / "back", dtype=torch.float32).eval()
    theirs = again(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits_per_image
    torch.testing.assert_close(theirs, expected, atol=2e-5, rtol=1e-5)


VIT = {"model_type": "vit", "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3,
       "intermediate_size": 40, "image_size": 30, "patch_size": 10}  # fmt: skip
BERT = {"model_type": "bert", "vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 30, "max_position_embeddings": 20}  # fmt: skip
ROBERTA = BERT | {"model_type": "roberta", "pad_token_id": 1}


@pytest.mark.parametrize("vision", [VIT | {"model_type": kind} for kind in ("vit", "clip_vision_model", "deit")])
@pytest.mark.parametrize("words", [BERT, ROBERTA])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
@torch.no_grad()
def test_dual_encoders_of_any_two_towers(tmp_path: Path, vision: dict, words: dict, form: str) -> None:
    torch.manual_seed(0)
    config = transformers.VisionTextDualEncoderConfig(vision_config=vision, text_config=words, projection_dim=20)
    reference = transformers.VisionTextDualEncoderModel(config).eval()
    reference.save_pretrained(tmp_path / "hf")
    if form == "bin":
        (tmp_path / "hf" / "model.safetensors").unlink()
        torch.save(reference.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
    told = {"image_mean": [0.1] * 3, "image_std": [0.3] * 3}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(told))
    model = opened(tmp_path / "hf")
    assert isinstance(model.vision, TransformersVision)
    assert model.vision.normalize.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    ids, mask = some_text()
    pixels = torch.randn(2, 3, 30, 30)
    expected = reference(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits_per_image
    torch.testing.assert_close(outputs(model, pixels, text(ids, mask))["logits"], expected, atol=2e-5, rtol=1e-5)
    convert(tmp_path / "hf", tmp_path / "ours.ckpt", "vlp")
    convert(tmp_path / "ours.ckpt", tmp_path / "back", "hugging_face")
    if form == "safetensors":
        equal_files(tmp_path / "hf" / "model.safetensors", tmp_path / "back" / "model.safetensors")


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
@torch.no_grad()
def test_the_image_tower_alone(tmp_path: Path, projected: bool, prefix: bool) -> None:
    whole = clip_model("quick_gelu", 57)
    kind = transformers.CLIPVisionModelWithProjection if projected else transformers.CLIPVisionModel
    reference = kind(whole.config.vision_config).eval()
    state = reference.state_dict()
    if not projected and prefix:
        state = {f"vision_model.{key}": value.clone() for key, value in state.items()}
    reference.save_pretrained(tmp_path, state_dict=state)
    model, pixels = opened(tmp_path), torch.randn(2, 3, 42, 42)
    output = reference(pixel_values=pixels)
    ours = model.projection.project_image(model.encode_image(Image(pixels=pixels)).pooled)
    torch.testing.assert_close(ours, output.image_embeds if projected else output.pooler_output, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="images alone: it embeds no texts"):
        model.projection.project_text(torch.zeros(1, 40))
    with pytest.raises(ValueError, match="neither a text tower nor a decoder"):
        vlp.load(tmp_path).embed_texts(["a dog"])


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
@torch.no_grad()
def test_the_text_tower_alone(tmp_path: Path, projected: bool, prefix: bool) -> None:
    whole = clip_model("quick_gelu", 57)
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    reference = kind(whole.config.text_config).eval()
    state = reference.state_dict()
    if not projected and prefix:
        state = {f"text_model.{key}": value.clone() for key, value in state.items()}
    reference.save_pretrained(tmp_path, state_dict=state)
    ids, mask = some_text()
    output = reference(input_ids=ids, attention_mask=mask)
    model = opened(tmp_path)
    ours = model.projection.project_text(model.encode_text(text(ids, mask)).pooled)
    torch.testing.assert_close(ours, output.text_embeds if projected else output.pooler_output, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="no vision"):
        vlp.load(tmp_path).embed_images([PIL.Image.new("RGB", (42, 42))])


def test_a_run_starts_from_a_tower_alone(tmp_path: Path) -> None:
    whole = clip_model("quick_gelu", 57)
    whole.save_pretrained(tmp_path / "whole")
    transformers.CLIPVisionModel(whole.config.vision_config).save_pretrained(tmp_path / "tower")
    model = opened(tmp_path / "whole")
    notes = load_weights(tmp_path / "tower", model, {})
    assert [note.rpartition("tower ")[2] for note in notes] == [
        "has no text, which is initialised from scratch", "has no projection, which is initialised from scratch",
    ]  # fmt: skip
    assert torch.equal(model.vision.positions, opened(tmp_path / "tower").vision.positions)


def test_keys_that_do_not_fit_the_config_are_named(tmp_path: Path) -> None:
    clip_model("gelu", 57).save_pretrained(tmp_path)
    state = tensor_files.read(tmp_path / "model.safetensors")
    state["text_model.embeddings.extra.weight"] = torch.zeros(2)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"1 key \(text_model\.embeddings\.extra\.weight\)"):
        opened(tmp_path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "flava"}')
    with pytest.raises(ValueError, match="'flava'"):
        opened(tmp_path)
