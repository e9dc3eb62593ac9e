"""Folders that transformers writes of tiny SigLIP models give its numbers, there and back; NaFlex is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import transformers

import vlp
from tests.checkpoints.fixtures import opened, outputs, text
from tests.checkpoints.test_hugging_face import equal_files
from tests.tokenizers.test_hugging_face import trained_pieces
from vlp.checkpoints.convert import convert
from vlp.checkpoints.load import load_weights
from vlp.structures import Image

VISION = {"hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 30,
          "patch_size": 10}  # fmt: skip
TEXT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60,
        "max_position_embeddings": 9, "projection_size": 36, "bos_token_id": 2, "eos_token_id": 1}  # fmt: skip


def written(folder: Path, vision: dict[str, Any] = VISION, words: dict[str, Any] = TEXT) -> transformers.SiglipModel:
    torch.manual_seed(0)
    reference = transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=words)).eval()
    for parameter in reference.parameters():  # what it sets to zero would hide a wrong bias
        parameter.data += 0.1 * torch.randn_like(parameter)
    reference.save_pretrained(folder)
    return reference


def some_ids(pad: int = 1) -> torch.Tensor:
    """Padded to the full length, as SigLIP was trained."""
    return torch.tensor([[5, 9, 3, 1, *[pad] * 5], [4, 8, 7, 6, 50, 2, 3, 30, 1]])


@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "gelu"])
@torch.no_grad()
def test_features_logits_and_there_and_back(tmp_path: Path, activation: str) -> None:
    reference = written(tmp_path / "hf", VISION | {"hidden_act": activation}, TEXT | {"hidden_act": activation})
    model, ids, pixels = opened(tmp_path / "hf"), some_ids(), torch.randn(3, 3, 30, 30)
    expected, ours = reference(input_ids=ids, pixel_values=pixels), outputs(model, pixels, text(ids, ids != 1))
    torch.testing.assert_close(ours["image"], expected.vision_model_output.pooler_output, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["text"], expected.text_model_output.pooler_output, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["logits"], expected.logits_per_image, atol=1e-5, rtol=1e-5)
    states = model.encode_image(Image(pixels=pixels)).states
    torch.testing.assert_close(states, expected.vision_model_output.last_hidden_state, atol=1e-5, rtol=1e-5)
    short = outputs(model, pixels, text(ids[:1, :4], ids[:1, :4] > 0))["text"]
    torch.testing.assert_close(short, ours["text"][:1], atol=1e-6, rtol=0)
    convert(tmp_path / "hf", tmp_path / "ours.ckpt", "vlp")
    convert(tmp_path / "ours.ckpt", tmp_path / "back", "hugging_face")
    equal_files(tmp_path / "hf" / "model.safetensors", tmp_path / "back" / "model.safetensors")
    again = transformers.SiglipModel.from_pretrained(tmp_path / "back").eval()
    logits = again(input_ids=ids, pixel_values=pixels).logits_per_image
    torch.testing.assert_close(logits, expected.logits_per_image, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_padding_is_that_of_the_tokenizer(tmp_path: Path) -> None:
    """SigLIP 2 of fixed resolution: Gemma's tokenizer pads with 0, whatever the config's default is."""
    reference = written(tmp_path)
    settings = {"pad_token": "<pad>", "added_tokens_decoder": {"0": {"content": "<pad>"}, "1": {"content": "<eos>"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ids, model = some_ids(pad=0), opened(tmp_path)
    expected = reference.get_text_features(input_ids=ids).pooler_output
    ours = outputs(model, torch.zeros(1, 3, 30, 30), text(ids[:1, :4], ids[:1, :4] > 0))["text"]
    torch.testing.assert_close(ours, expected[:1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["SiglipVisionModel", "SiglipTextModel"])
@pytest.mark.parametrize("prefix", [False, True])
@torch.no_grad()
def test_one_tower_alone(tmp_path: Path, kind: str, prefix: bool) -> None:
    torch.manual_seed(0)
    name = "vision" if "Vision" in kind else "text"
    settings = VISION if name == "vision" else TEXT
    config = getattr(transformers, kind.replace("Model", "Config"))(**settings)
    reference = getattr(transformers, kind)(config).eval()
    state = {f"{name}_model." * prefix + key: value.clone() for key, value in reference.state_dict().items()}
    reference.save_pretrained(tmp_path, state_dict=state)
    model, ids, pixels = opened(tmp_path), some_ids(), torch.randn(2, 3, 30, 30)
    if name == "vision":
        expected = reference(pixel_values=pixels).pooler_output
        ours = model.projection.project_image(model.encode_image(Image(pixels=pixels)).pooled)
    else:
        expected = reference(input_ids=ids).pooler_output
        ours = model.projection.project_text(model.encode_text(text(ids, ids != 1)).pooled)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_pictures_and_another_image_size_as_transformers_does_it(tmp_path: Path) -> None:
    reference = written(tmp_path)
    processor = transformers.SiglipImageProcessorPil(size={"height": 30, "width": 30})
    processor.save_pretrained(tmp_path)
    picture = PIL.Image.effect_noise((70, 50), 60).convert("RGB")
    expected = reference.get_image_features(**processor(images=[picture], return_tensors="pt")).pooler_output
    ours = vlp.load(tmp_path).embed_images([picture])
    torch.testing.assert_close(ours, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5, rtol=0)
    pixels = torch.randn(2, 3, 50, 50)
    larger = reference.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True).pooler_output
    resized = opened(tmp_path, image_size=50).encode_image(Image(pixels=pixels)).pooled
    torch.testing.assert_close(resized, larger, atol=1e-5, rtol=0)


@torch.no_grad()
def test_texts_of_a_folder_as_transformers_does_it(tmp_path: Path) -> None:
    trained_pieces(tmp_path)
    tokenizer = transformers.SiglipTokenizer(vocab_file=str(tmp_path / "spiece.model"), model_max_length=9)
    reference = written(tmp_path, words=TEXT | {"vocab_size": len(tokenizer)})
    tokenizer.save_pretrained(tmp_path)
    texts = ["A dog, in the snow!", "two cats"]
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=9, return_tensors="pt")["input_ids"]
    expected = reference.get_text_features(input_ids=ids).pooler_output
    ours = vlp.load(tmp_path).embed_texts(texts)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5, rtol=0)


def test_a_run_starts_from_siglip(tmp_path: Path) -> None:
    reference = written(tmp_path)
    model = opened(tmp_path)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert load_weights(tmp_path, model, {}) == []
    assert torch.equal(model.projection.logit_bias, reference.logit_bias[0])
    pixels, ids = torch.randn(3, 3, 30, 30), some_ids()[[0, 1, 1]]
    ids[2, 1] = 20
    logits = outputs(model.train(), pixels, text(ids, ids != 1))["logits"]
    loss = -torch.nn.functional.logsigmoid((2 * torch.eye(3) - 1) * logits).sum(1).mean()
    loss.backward()
    reference(input_ids=ids, pixel_values=pixels, return_loss=True).loss.backward()
    for ours, theirs in (
        (model.projection.logit_bias, reference.logit_bias),
        (model.vision.attention_pool.query, reference.vision_model.head.probe),
        (model.text.embedding.weight, reference.text_model.embeddings.token_embedding.weight),
    ):
        torch.testing.assert_close(ours.grad.flatten(), theirs.grad.flatten(), atol=1e-5, rtol=1e-4)


def test_naflex_is_refused_by_name(tmp_path: Path) -> None:
    vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 9}
    config = transformers.Siglip2Config(vision_config=vision, text_config=TEXT)
    transformers.Siglip2Model(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"NaFlex.*fixed resolution"):
        opened(tmp_path)


def test_other_forms_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "hf", VISION | {"vision_use_head": False})
    with pytest.raises(ValueError, match="vision_use_head=false"):
        opened(tmp_path / "hf")
