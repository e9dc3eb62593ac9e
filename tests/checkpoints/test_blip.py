"""BLIP's checkpoints in the originals' format: numbers, gradients, ids, and the way back bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vlp
from tests.checkpoints.fixtures import arrays, check_norms
from tests.tasks.test_vqa import reference_batch
from vlp.build import build
from vlp.checkpoints import blip, load
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import to_theirs
from vlp.models.features import compute_features
from vlp.models.generation import GenerationRules, beam_search
from vlp.models.momentum import MomentumCopy
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.lm import token_losses
from vlp.structures import Batch, Image, Text, Tokens
from vlp.tasks.vqa import VQA, rank_answers

KINDS = ("caption", "itm", "vqa", "pretrain")


def opened(shared: Path, kind: str) -> tuple[Checkpoint, VisionLanguageModel, dict[str, Tensor], dict[str, Tensor]]:
    folder = shared / "reference" / "blip" / kind
    checkpoint = load.read(folder / "checkpoint.pth", {})
    model = load.build_model(checkpoint)
    outputs = "outputs_alpha04" if kind == "pretrain" else "outputs"
    return checkpoint, model, arrays(folder / "inputs.npz"), arrays(folder / f"{outputs}.npz")


def text(inputs: dict[str, Tensor], name: str = "input") -> Text:
    mask = inputs["attention_mask" if name == "input" else f"{name}_mask"]
    return Text(ids=inputs[f"{name}_ids"], mask=mask.bool())


def close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def check_gradients(
    folder: Path, name: str, model: VisionLanguageModel, heads: dict[str, Tensor] | None = None
) -> None:
    gradients = {f"model.{key}": p.grad for key, p in model.named_parameters(remove_duplicate=False)} | (heads or {})
    assert [key for key, value in gradients.items() if value is None] == []
    theirs = to_theirs(blip.add_leading_dimensions(gradients), blip.TABLE)
    for key in list(theirs):  # the originals count these once more
        if key.endswith(".cls.predictions.bias"):
            theirs[key.replace("predictions.bias", "predictions.decoder.bias")] = theirs[key]
    check_norms(theirs, folder / f"grad_norms_{name}.json")
    for key, value in arrays(folder / f"grads_{name}.npz").items():
        close(theirs[key], value)


def test_captioning(shared: Path) -> None:
    _, model, inputs, expected = opened(shared, "caption")
    words, image = text(inputs), model.encode_image(Image(pixels=inputs["image"]))
    close(image.states, expected["image_embeds"])
    logits = model.decode(words, image)
    close(logits[words.mask], expected["logits"][words.mask], 2e-5)
    counted = words.mask[:, 4:].sum()  # "a picture of " is not
    loss = token_losses(logits, words, label_smoothing=0.1, prompt=3).sum() / counted
    close(loss, expected["loss_lm"])
    loss.backward()
    check_gradients(shared / "reference" / "blip" / "caption", "lm", model)


@torch.no_grad()
def test_matching(shared: Path) -> None:
    """blip_itm.py leaves the text's own first token; train_retrieval.py puts [ENC] there, as in training."""
    checkpoint, model, inputs, expected = opened(shared, "itm")
    head = nn.Linear(32, 2)
    head.load_state_dict({key.removeprefix("itm.head."): value for key, value in checkpoint.heads.items()})
    image, words = model.encode_image(Image(pixels=inputs["image"])), model.encode_text(text(inputs))
    close(model.similarity(model.embed_image(image), model.embed_text(words)), expected["itc_sim"])
    close(head(model.fuse(words, image).pooled), expected["itm_logits_with_enc_token"])
    model.fusion.start_id = None
    close(head(model.fuse(words, model.project_memory(image)).pooled), expected["itm_logits"])


def test_question_answering(shared: Path) -> None:
    _, model, inputs, expected = opened(shared, "vqa")
    batch, made = reference_batch(inputs, "train_n"), VQA(label_smoothing=0.1)
    loss = made(model, batch, compute_features(model, batch, made.uses)).value
    close(loss, expected["train_loss"])
    loss.backward()
    check_gradients(shared / "reference" / "blip" / "vqa", "train", model)
    with torch.no_grad():
        fused = model.fuse(model.encode_text(text(inputs, "question")), model.encode_image(batch.image))
        close(fused.states[fused.mask], expected["question_states"][fused.mask])
        index, _ = rank_answers(model, fused, text(inputs, "answer"), candidates=5, label_smoothing=0.1)
        assert index[:, 0].tolist() == expected["rank_ids"].tolist()


@torch.no_grad()
def test_written_answers(shared: Path) -> None:
    """blip_vqa.py lets the decoder see the question's padding too, so batches change its answers; ours do not."""
    _, model, inputs, expected = opened(shared, "vqa")
    rules = GenerationRules(end_id=102, pad_id=0, max_length=10, min_length=1)
    states = expected["question_states"]
    theirs = Tokens(states=states, pooled=states[:, 0])
    start = torch.full((3, 1), 600)
    found = beam_search(model.decoder.step, model.decoder.empty_cache(theirs), start, rules, beams=3)
    assert found.tolist() == expected["generate_ids"].tolist()
    ours = model.fuse(model.encode_text(text(inputs, "question")), model.encode_image(Image(pixels=inputs["image"])))
    found = beam_search(model.decoder.step, model.decoder.empty_cache(ours), start, rules, beams=3)
    whole = ours.mask.all(1)
    assert whole.any()
    assert found[whole].tolist() == expected["generate_ids"][whole].tolist()


def test_pretraining(shared: Path) -> None:
    """All three losses with the momentum copy and the queues, and the gradient of their sum."""
    checkpoint, model, inputs, expected = opened(shared, "pretrain")
    nodes = {name: checkpoint.config["objectives"][name] for name in ("itc", "itm", "lm")}
    objectives = nn.ModuleDict({name: build(node) for name, node in nodes.items()})
    objectives.load_state_dict(checkpoint.heads)
    copy = MomentumCopy(model, dict(objectives.items()))
    copy.load_state_dict(checkpoint.momentum)
    copy.step()
    rows, words = torch.arange(3), text(inputs)
    batch = Batch(id=rows, sample=rows, seed=rows, image=Image(pixels=inputs["image"]), caption=words)
    uses = {"text", "memory"} | set().union(*(objective.uses for objective in objectives.values()))
    features = compute_features(model, batch, uses, momentum=copy)
    contrast = objectives["itc"](model, batch, features).value
    close(contrast, expected["loss_ita"])
    for name in ("image", "text"):
        queue = getattr(objectives["itc"], f"{name}_queue")
        close(queue.embed.T, expected[f"{name}_queue_after"])
        assert int(queue.pointer) == int(expected["queue_ptr_after"])

    head, memory, told = objectives["itm"].head, features.memory, features.text
    hard_image, hard_text = memory.select(expected["neg_image_index"]), told.select(expected["neg_text_index"])
    pairs = [(told, memory), (told, hard_image), (hard_text, memory)]
    logits = torch.cat([head(model.fuse(*pair).pooled) for pair in pairs])
    close(logits, expected["itm_logits"])
    matching = F.cross_entropy(logits, torch.tensor([1] * 3 + [0] * 6))
    close(matching, expected["loss_itm"])

    decoded = model.decode(words, features.image)
    close(decoded[words.mask], expected["lm_logits"][words.mask], 2e-5)
    writing = token_losses(decoded, words, label_smoothing=0.1).sum() / words.mask[:, 1:].sum()
    close(writing, expected["loss_lm"])
    (contrast + matching + writing).backward()
    heads = {f"objectives.itm.head.{key}": p.grad for key, p in head.named_parameters()}
    check_gradients(shared / "reference" / "blip" / "pretrain", "alpha04", model, heads)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_bit_equal(shared: Path, tmp_path: Path, kind: str) -> None:
    source = shared / "reference" / "blip" / kind / "checkpoint.pth"
    checkpoint = load.read(source, {})
    load.save(checkpoint, tmp_path / "ours.ckpt")
    blip.write(load.read(tmp_path / "ours.ckpt", {}), tmp_path / "back.pth")
    before, after = (torch.load(file, weights_only=True)["model"] for file in (source, tmp_path / "back.pth"))
    assert before.keys() == after.keys()
    assert [k for k in before if before[k].dtype != after[k].dtype or not torch.equal(before[k], after[k])] == []


def test_heads_are_arguments_where_no_json_tells_them(shared: Path, tmp_path: Path) -> None:
    alone = tmp_path / "folder" / "checkpoint.pth"
    alone.parent.mkdir()
    shutil.copy(shared / "reference" / "blip" / "vqa" / "checkpoint.pth", alone)
    with pytest.raises(ValueError, match="give vision_heads"):
        load.build_model(load.read(alone, {}))
    model = load.build_model(load.read(alone, {"vision_heads": 4, "text_heads": 4}))
    assert model.text.blocks[0].attention.heads == 4
    told = load.build_model(load.read(alone, {"vision_heads": 3, "text_heads": 2, "image_size": 96}))
    assert told.vision.positions.shape == (37, 48)


def retrieval(shared: Path) -> dict[str, Any]:
    """As BLIP_Retrieval has it: no decoder, and a queue that knows its images."""
    state = torch.load(shared / "reference" / "blip" / "pretrain" / "checkpoint.pth", weights_only=True)["model"]
    state = {key: value for key, value in state.items() if not key.startswith("text_decoder")}
    state["ptr_queue"] = state.pop("queue_ptr")
    return state | {"idx_queue": torch.arange(12)[None] - 100}


def test_retrieval_with_its_queue(shared: Path, tmp_path: Path) -> None:
    state = retrieval(shared)
    state["idx_queue"][0, -3:] = torch.tensor([5, 6, 7])
    (tmp_path / "a").mkdir()
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a" / "best.pth")
    checkpoint = load.read(tmp_path / "a" / "best.pth", {"vision_heads": 4, "text_heads": 4})
    assert checkpoint.heads["itc.text_queue.id"].tolist() == [-1] * 9 + [5, 6, 7]
    model = load.build_model(checkpoint)
    assert model.decoder is None
    blip.write(checkpoint, tmp_path / "back.pth")
    after = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert after.keys() == state.keys()


@pytest.mark.parametrize(("name", "limits"), [("beams3_max15_min5", (15, 5)), ("beams3_max30_min10", (30, 10))])
def test_captions_as_words(shared: Path, name: str, limits: tuple[int, int]) -> None:
    """With the vocabulary beside the file, the prompt that the captioner was trained with, and the text without it."""
    folder = shared / "reference" / "blip" / "caption"
    checkpoint, predictor = load.read(folder / "checkpoint.pth", {}), vlp.load(folder / "checkpoint.pth")
    made = build(checkpoint.config["objectives"]["captioning"], max_length=limits[0], min_length=limits[1])
    image = Image(pixels=arrays(folder / "inputs.npz")["image"])
    found = made.caption(predictor.model, predictor.require_tokenizer(), image)
    assert found == json.loads((folder / "texts.json").read_text())["generated"][name]


def test_another_decoder_matrix_is_refused(shared: Path, tmp_path: Path) -> None:
    content = torch.load(shared / "reference" / "blip" / "caption" / "checkpoint.pth", weights_only=True)
    name = "text_decoder.cls.predictions.decoder.weight"
    content["model"][name] = content["model"][name] + 1
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="BLIP's are one matrix"):
        load.read(tmp_path / "other.pth", {})


def test_a_bias_that_did_not_grow_with_the_vocabulary(shared: Path, tmp_path: Path) -> None:
    """Resizing the embeddings in pre-training lengthened one of the two copies only."""
    content = torch.load(shared / "reference" / "blip" / "caption" / "checkpoint.pth", weights_only=True)
    state = content["model"]
    state["text_decoder.cls.predictions.bias"] = state["text_decoder.cls.predictions.bias"][:600]
    torch.save(content, tmp_path / "grown.pth")
    found = load.read(tmp_path / "grown.pth", {}).state["decoder.head.bias"]
    assert torch.equal(found, state["text_decoder.cls.predictions.decoder.bias"])
