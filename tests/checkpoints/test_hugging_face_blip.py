"""Hugging Face's BLIP folders: the stored numbers, transformers itself, and the way back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from tests.checkpoints.fixtures import arrays, text
from vlp.checkpoints import hugging_face_blip, load, tensor_files
from vlp.models.generation import GenerationRules, beam_search, greedy_search
from vlp.objectives.lm import token_losses
from vlp.structures import Image, Tokens


@torch.no_grad()
def test_captioning(shared: Path) -> None:
    folder = shared / "reference" / "hf" / "blip_caption"
    model = load.build_model(load.read(folder, {}))
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    words = text(inputs["input_ids"], inputs["attention_mask"])
    image = model.encode_image(Image(pixels=inputs["pixel_values"]))
    torch.testing.assert_close(image.states, expected["image_embeds"], atol=1e-5, rtol=0)
    logits = model.decode(words, image)
    torch.testing.assert_close(logits[words.mask], expected["logits"][words.mask], atol=2e-5, rtol=0)
    loss = token_losses(logits, words).sum() / words.mask[:, 1:].sum()
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "beams"),
    [("greedy_uncond", 1), ("greedy_prompt", 1), ("beam3_prompt", 3), ("greedy_prompt_sep_bias_plus4", 1)],
)
@torch.no_grad()
def test_its_captions(shared: Path, name: str, beams: int) -> None:
    folder = shared / "reference" / "hf" / "blip_caption"
    model, inputs = load.build_model(load.read(folder, {})), arrays(folder / "inputs.npz")
    prompt = torch.full((2, 1), 600) if name.endswith("uncond") else inputs["prompt_ids"][:, :-1]
    model.decoder.head.bias[102] += 4 if name.endswith("plus4") else 0
    rules = GenerationRules(end_id=102, pad_id=0, max_length=prompt.shape[1] + 12)
    start = (
        model.decoder.step,
        model.decoder.empty_cache(model.encode_image(Image(pixels=inputs["pixel_values"]))),
        prompt,
        rules,
    )
    found = greedy_search(*start) if beams == 1 else beam_search(*start, beams=beams)
    assert found.tolist() == arrays(folder / "outputs.npz")[f"generate_{name}"].tolist()


@torch.no_grad()
def test_matching(shared: Path) -> None:
    folder = shared / "reference" / "hf" / "blip_itm"
    checkpoint = load.read(folder, {})
    model, head = load.build_model(checkpoint), nn.Linear(32, 2)
    head.load_state_dict({key.removeprefix("itm.head."): value for key, value in checkpoint.heads.items()})
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    words = model.encode_text(text(inputs["input_ids"], inputs["attention_mask"]))
    image = model.encode_image(Image(pixels=inputs["pixel_values"]))
    found = model.similarity(model.embed_image(image), model.embed_text(words))
    torch.testing.assert_close(found, expected["itc_sim"], atol=1e-5, rtol=0)
    torch.testing.assert_close(head(model.fuse(words, image).pooled), expected["itm_logits"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_question_answering(shared: Path) -> None:
    """transformers' decoder sees the question's padding; on its own states we give its numbers, and so we do on ours for
    questions without padding."""
    folder = shared / "reference" / "hf" / "blip_vqa"
    model, theirs = (
        load.build_model(load.read(folder, {})),
        transformers.BlipForQuestionAnswering.from_pretrained(folder).eval(),
    )
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    question, pixels = text(inputs["input_ids"], inputs["attention_mask"]), inputs["pixel_values"]
    states = theirs.text_encoder(
        input_ids=question.ids, attention_mask=inputs["attention_mask"],
        encoder_hidden_states=theirs.vision_model(pixels)[0], return_dict=True,
    )[0]  # fmt: skip
    fused = model.fuse(model.encode_text(question), model.encode_image(Image(pixels=pixels)))
    torch.testing.assert_close(fused.states[question.mask], states[question.mask], atol=1e-5, rtol=0)
    answer = text(inputs["decoder_input_ids"])
    seen = Tokens(states=states, pooled=states[:, 0])
    loss = token_losses(model.decode(answer, seen), answer).sum() / answer.mask[:, 1:].sum()
    torch.testing.assert_close(loss, expected["loss"], atol=1e-5, rtol=0)
    rules, start = GenerationRules(end_id=102, pad_id=0, max_length=7), torch.full((2, 1), 600)
    found = greedy_search(model.decoder.step, model.decoder.empty_cache(seen), start, rules)
    assert found.tolist() == expected["generate_greedy"].tolist()
    found = greedy_search(model.decoder.step, model.decoder.empty_cache(fused), start, rules)
    assert found[1].tolist() == expected["generate_greedy"][1].tolist()


@pytest.mark.parametrize("kind", ["caption", "itm", "vqa"])
def test_there_and_back_is_bit_equal(shared: Path, tmp_path: Path, kind: str) -> None:
    folder = shared / "reference" / "hf" / f"blip_{kind}"
    hugging_face_blip.write(load.read(folder, {}), tmp_path)
    before, after = (tensor_files.read(place / "model.safetensors") for place in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    architecture = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    reader = getattr(transformers, architecture)
    again, info = reader.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert again.config.vision_config.layer_norm_eps == 1e-5


@torch.no_grad()
def test_originals_as_folders(shared: Path, tmp_path: Path) -> None:
    """A captioner of the original format runs in transformers with the same logits."""
    source = shared / "reference" / "blip" / "caption"
    hugging_face_blip.write(load.read(source / "checkpoint.pth", {}), tmp_path)
    model = transformers.BlipForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs, expected = arrays(source / "inputs.npz"), arrays(source / "outputs.npz")
    found = model(pixel_values=inputs["image"], input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    mask = inputs["attention_mask"].bool()
    torch.testing.assert_close(found.logits[mask], expected["logits"][mask], atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match=r"transformers has no BLIP of text\+projection\+decoder"):
        hugging_face_blip.write(load.read(source.parent / "pretrain" / "checkpoint.pth", {}), tmp_path / "other")


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "blip", "architectures": ["BlipModel"]}')
    with pytest.raises(ValueError, match="holds BlipModel; vlp reads BlipForConditionalGeneration"):
        load.read(tmp_path, {})
