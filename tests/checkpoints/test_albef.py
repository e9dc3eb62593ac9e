"""ALBEF's five kinds of checkpoints give the originals' numbers, and go there and back bit-equal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import vlp
from tests.checkpoints.fixtures import check_norms
from vlp.build import build
from vlp.checkpoints import albef, load
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.data.images import open_image
from vlp.metrics.recall import recall_from_scores
from vlp.models.features import compute_features
from vlp.objectives.itc import ITC
from vlp.objectives.mlm import MLM
from vlp.predictor import Predictor
from vlp.structures import Batch, Features, Image, Text
from vlp.tasks.retrieval import Retrieval
from vlp.tasks.visual_entailment import CLASSES

FILES = {
    "pretrain": "checkpoint_00.pth", "retrieval": "checkpoint_best.pth", "vqa": "checkpoint_07.pth",
    "ve": "checkpoint_best.pth", "nlvr": "checkpoint_01.pth",
}  # fmt: skip

VARIANTS = [(2, 4, 1, 2), (5, 1, 1, 3), (1, 5, 1, 3), (3, 3, 1, 5), (4, 2, 2, 2), (2, 4, 2, 2), (1, 2, 2, 2)]


def file(shared: Path, kind: str) -> Path:
    return shared / "reference" / "albef" / kind / FILES[kind]


def arrays(shared: Path, kind: str, name: str) -> dict[str, Tensor]:
    with np.load(shared / "reference" / "albef" / kind / f"{name}.npz") as content:
        return {key: torch.from_numpy(content[key]) for key in content.files}


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    # a sum of 45 is not known to 1e-5 in float32, whose last place there is 4e-6
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-6, atol=tolerance)


@pytest.mark.parametrize("kind", FILES)
def test_there_and_back_is_bit_equal(shared: Path, kind: str, tmp_path: Path) -> None:
    checkpoint = load.read(file(shared, kind), {})
    albef.write(checkpoint, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    original = torch.load(file(shared, kind), map_location="cpu", weights_only=True)["model"]
    assert again.keys() == original.keys()
    for key, value in original.items():
        assert again[key].dtype == value.dtype, key
        assert torch.equal(again[key], value), key


def test_visual_entailment_of_another_order_is_written_in_albefs(shared: Path, tmp_path: Path) -> None:
    """Also of a head whose config leaves the classes to the task, as those that vlp trains do."""
    checkpoint = load.read(file(shared, "ve"), {})
    node = checkpoint.config["objectives"]["visual_entailment"]
    order = [node["classes"].index(name) for name in CLASSES]
    assert order == [2, 1, 0]
    del node["classes"]
    for tensors in (checkpoint.heads, checkpoint.momentum):
        for key in (key for key in tensors if ".head.2." in key):
            tensors[key] = tensors[key][order]
    albef.write(checkpoint, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    original = torch.load(file(shared, "ve"), map_location="cpu", weights_only=True)["model"]
    assert all(torch.equal(again[key], value) for key, value in original.items())


@pytest.mark.parametrize(("text_layers", "fusion_layers", "images", "classes"), VARIANTS)
def test_any_depth_of_text_and_fusion(
    text_layers: int, fusion_layers: int, images: int, classes: int, tmp_path: Path
) -> None:
    """Two images are told by layers that share keys and values, not by how many there are."""
    bert = {"width": 24, "heads": 2, "hidden_width": 30}
    model = {
        "_target_": "vlp.models.vlm.VisionLanguageModel",
        "vision": {
            "_target_": "vlp.models.vision.clip_vit.ClipVit", "image_size": 16, "patch_size": 8, "width": 18, "layers": 1,
            "heads": 3, "activation": "gelu", "norm_eps": 1e-6, "pre_norm": False, "patch_bias": True, "norm_states": True,
        },
        "text": {
            "_target_": "vlp.models.text.bert.BertText", **bert, "layers": text_layers, "vocabulary_size": 40,
            "context_length": 12, "token_types": 1,
        },
        "fusion": {
            "_target_": "vlp.models.fusion.cross.CrossFusion", **bert, "layers": fusion_layers, "images": images,
            "image_width": 18, "text_width": 24,
        },
    }  # fmt: skip
    head = {1: ("visual_entailment", {"classes": [str(n) for n in range(classes)]}), 2: ("nlvr2", {"head": "albef"})}
    name, options = head[images]
    target = {"nlvr2": "vlp.tasks.nlvr2.NLVR2", "visual_entailment": "vlp.tasks.visual_entailment.VisualEntailment"}
    task = build({"_target_": target[name], "width": 24, **options})
    heads = {f"{name}.{key}": value for key, value in task.state_dict().items()}
    original = Checkpoint(config={"model": model}, state=dict(build(model).state_dict()), heads=heads)
    albef.write(original, tmp_path / "c.pth")
    (tmp_path / "config_bert.json").write_text('{"num_attention_heads": 2, "layer_norm_eps": 1e-5}')
    found = load.read(tmp_path / "c.pth", {"vision_heads": 3})
    assert list(found.config["objectives"]) == [name]
    assert found.config["model"]["fusion"]["images"] == images
    assert {found.config["model"][part]["norm_eps"] for part in ("text", "fusion")} == {1e-5}
    for key, value in original.state.items():
        assert torch.equal(found.state[key], value), key
    load.build_model(found)


def test_without_queues(shared: Path, tmp_path: Path) -> None:
    state = torch.load(file(shared, "pretrain"), map_location="cpu", weights_only=True)["model"]
    torch.save({"model": {key: value for key, value in state.items() if "queue" not in key}}, tmp_path / "c.pth")
    heads = {
        name: load.read(file(shared, "pretrain"), {}).config["model"][name]["heads"] for name in ("vision", "text")
    }
    found = vlp.load(tmp_path / "c.pth", **{f"{name}_heads": count for name, count in heads.items()})
    assert sorted(found.objectives) == ["itm", "mlm"]
    assert torch.equal(found.model.part("projection").temperature, state["temp"])


def pretraining(shared: Path, alpha: float) -> tuple[Predictor, Batch, dict[str, Tensor]]:
    predictor = vlp.load(file(shared, "pretrain"))
    inputs = arrays(shared, "pretrain", "inputs")
    ids = torch.arange(len(inputs["image"]))
    text = Text(ids=inputs["input_ids"], mask=inputs["attention_mask"].bool())
    batch = Batch(id=ids, sample=ids, seed=ids, image=Image(pixels=inputs["image"]), caption=text)
    for objective in (predictor.objectives["itc"], predictor.objectives["mlm"]):
        objective.distillation = alpha
    return (
        predictor,
        batch,
        arrays(shared, "pretrain", f"outputs_alpha{str(alpha).replace('.', '')}" if alpha else "outputs_alpha0"),
    )


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_pretraining_with_momentum(shared: Path, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value of one step: states, features, similarities, negatives' logits, the three losses, gradients, queues."""
    predictor, batch, expected = pretraining(shared, alpha)
    model, objectives, momentum = predictor.model, predictor.objectives, predictor.momentum
    assert momentum is not None
    momentum.step()
    fields = set().union(*(objective.uses for objective in objectives.values())) | {"momentum.image", "momentum.text"}
    features = compute_features(model, batch, fields, momentum=momentum)
    slow, mask = features.momentum, batch.caption.mask
    close(momentum.model.projection.text.weight, expected["text_proj_m_after"])
    close(momentum.model.vision.positions, expected["vis_pos_embed_m_after"][0])
    for found, name, rows in (
        (features.image.states, "image_embeds", ...), (features.text.states, "text_embeds", mask),
        (features.image_embed, "image_feat", ...), (features.text_embed, "text_feat", ...),
        (slow.image.states, "image_embeds_m", ...), (slow.text.states, "text_embeds_m", mask),
        (slow.image_embed, "image_feat_m", ...), (slow.text_embed, "text_feat_m", ...),
    ):  # fmt: skip
        close(found[rows], expected[name][rows])
    close(model.fuse(features.text, features.memory).states[mask], expected["fusion_pos"][mask])
    hard = features.memory.select(expected["neg_image_index"])
    close(model.fuse(features.text, hard).states[mask], expected["fusion_neg"][:4][mask])
    itc: ITC = objectives["itc"]
    keys = torch.cat([slow.text_embed, itc.text_queue.contents()[0]])
    close(model.similarity(features.image_embed, keys), expected["sim_i2t"], 2e-5)
    images = torch.cat([slow.image_embed, itc.image_queue.contents()[0]])
    close(model.similarity(images, features.text_embed).T, expected["sim_t2i"], 2e-5)

    itc.train()
    itc_loss = itc(model, batch, features).value
    close(itc_loss, expected["loss_ita"])
    for name in ("image", "text"):
        queue = getattr(itc, f"{name}_queue")
        close(queue.embed.T, expected[f"{name}_queue_after"])
        assert int(queue.pointer) == int(expected["queue_ptr_after"])

    itm = objectives["itm"]
    everyone = torch.ones(4, dtype=torch.bool)
    drawn = (expected["neg_text_index"], everyone, expected["neg_image_index"], everyone)
    monkeypatch.setattr(type(itm), "negatives", lambda *_: drawn)
    itm_loss = itm(model, batch, features).value
    close(itm_loss, expected["loss_itm"])

    mlm: MLM = objectives["mlm"]
    label = expected["mlm_labels"]
    masked, chosen = Text(ids=expected["masked_input_ids"], mask=mask), label != -100
    hidden = model.fuse(model.encode_text(masked), features.memory)
    close(hidden.states[mask], expected["mlm_hidden"][mask])
    close(mlm.logits(model, masked, features.memory, chosen), expected["mlm_logits"][chosen], 2e-5)
    mlm_loss = mlm.loss(model, features, masked, features.memory, chosen, label[chosen], features.owner).value
    close(mlm_loss, expected["loss_mlm"])

    (itc_loss + itm_loss + mlm_loss).backward()
    _check_gradients(shared, predictor, f"alpha{'04' if alpha else '0'}", "pretrain")


def _check_gradients(shared: Path, predictor: Predictor, name: str, kind: str) -> None:
    """Under ALBEF's own names, by the table that loads the weights."""
    parameters = {f"model.{key}": value for key, value in predictor.model.named_parameters(remove_duplicate=False)}
    parameters |= {f"objectives.{key}": value for key, value in predictor.objectives.named_parameters()}
    gradients = {key: value.grad for key, value in parameters.items() if value.grad is not None}
    for key in ("class_token", "positions"):
        gradients[f"model.vision.{key}"] = gradients[f"model.vision.{key}"][None]
    gradients["model.vision.class_token"] = gradients["model.vision.class_token"][None]
    original = torch.load(file(shared, kind), map_location="cpu", weights_only=True)["model"]
    theirs = albef.to_theirs(gradients, [row for row in albef.key_table(albef.detect_variant(original)) if row.ours])
    for key, value in arrays(shared, kind, f"grads_{name}").items():
        close(theirs[key], value)
    check_norms(theirs, shared / "reference" / "albef" / kind / f"grad_norms_{name}.json")


def test_negatives_are_never_of_the_same_image(shared: Path) -> None:
    predictor, batch, _ = pretraining(shared, 0.0)
    predictor.momentum.step()
    itm = predictor.objectives["itm"]
    features = compute_features(predictor.model, batch, itm.uses, momentum=predictor.momentum)
    for seed in range(50):
        text, _, image, _ = itm.negatives(
            predictor.model, Batch(**{**vars(batch), "seed": batch.seed + 4 * seed}), features
        )
        assert not (text == torch.arange(4)).any()
        assert not (image == torch.arange(4)).any()


def test_retrieval_variant(shared: Path) -> None:
    predictor = vlp.load(file(shared, "retrieval"))
    inputs, expected = arrays(shared, "retrieval", "inputs"), arrays(shared, "retrieval", "outputs")
    model = predictor.model
    with torch.no_grad():
        image = model.encode_image(Image(pixels=inputs["images"]))
        text = model.encode_text(Text(ids=inputs["input_ids"], mask=inputs["attention_mask"].bool()))
        features = model.embed_image(image), model.embed_text(text)
        close(features[0], expected["image_feat"])
        close(features[1], expected["text_feat"])
        close(features[0] @ features[1].T, expected["sims"])
        close(model.vision.positions, expected["pos_embed_96"][0])
        memory, found = model.project_memory(image), expected["score_i2t"].clone()
        for row, column in (found > -100).nonzero().tolist():
            pair = model.fuse(text.select([column]), memory.select([row])).pooled
            close(predictor.objectives["itm"].head(pair)[0, 1], expected["score_i2t"][row, column])
            found[row, column] = -100


def test_positions_for_larger_images(shared: Path) -> None:
    """64-pixel pre-training weights at 96 pixels, momentum copy included, as the original's own loading resizes them."""
    predictor, expected = vlp.load(file(shared, "pretrain"), image_size=96), arrays(shared, "retrieval", "outputs")
    checkpoint = load.read(file(shared, "pretrain"), {"image_size": 96})
    original = torch.load(file(shared, "retrieval"), map_location="cpu", weights_only=True)["model"]
    assert predictor.model.vision.positions.shape == expected["pos_embed_96"][0].shape
    positions = load.read(file(shared, "pretrain"), {}).state["vision.positions"]
    resized = load.resize_positions(positions, (4, 4), (6, 6), antialias=False)
    assert torch.equal(resized, predictor.model.vision.positions)
    assert checkpoint.momentum["model.vision.positions"].shape == original["visual_encoder_m.pos_embed"][0].shape
    assert predictor.transform.image_size == 96


def test_retrieval_training_with_repeated_images(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of the queue make several positives in a row."""
    predictor = vlp.load(file(shared, "retrieval"))
    inputs, expected = arrays(shared, "retrieval", "inputs"), arrays(shared, "retrieval", "outputs")
    ids = inputs["train_idx"].flatten()
    batch = Batch(
        id=ids, sample=ids, seed=ids, image=Image(pixels=inputs["images"][: len(ids)]),
        caption=Text(ids=inputs["train_input_ids"], mask=inputs["train_attention_mask"].bool()),
    )  # fmt: skip
    model, momentum, itc, itm = (
        predictor.model,
        predictor.momentum,
        predictor.objectives["itc"],
        predictor.objectives["itm"],
    )
    momentum.step()
    features = compute_features(model, batch, {*itc.uses, *itm.uses}, momentum=momentum)
    keys = torch.cat([features.momentum.text_embed, itc.text_queue.contents()[0]])
    close(model.similarity(features.image_embed, keys), expected["train_sim_i2t"], 2e-5)
    itc.train()
    first = itc(model, batch, features).value
    close(first, expected["train_loss_ita"])
    assert torch.equal(itc.image_queue.id, expected["train_idx_queue_after"][0])
    everyone = torch.ones(4, dtype=torch.bool)
    drawn = (expected["train_neg_text_index"], everyone, expected["train_neg_image_index"], everyone)
    monkeypatch.setattr(type(itm), "negatives", lambda *_: drawn)
    second = itm(model, batch, features).value
    close(second, expected["train_loss_itm"])
    (first + second).backward()
    _check_gradients(shared, predictor, "train", "retrieval")


def test_visual_entailment(shared: Path) -> None:
    predictor = vlp.load(file(shared, "ve"))
    inputs, expected = arrays(shared, "ve", "inputs"), arrays(shared, "ve", "outputs")
    ids = torch.arange(4)
    batch = Batch(
        id=ids, sample=ids, seed=ids, image=Image(pixels=inputs["image"]), label=inputs["targets"],
        question=Text(ids=inputs["input_ids"], mask=inputs["attention_mask"].bool()),
    )  # fmt: skip
    task, model = predictor.objectives["visual_entailment"], predictor.model
    close(
        task.logits(model, batch, Features(memory=model.project_memory(model.encode_image(batch.image)))),
        expected["logits"],
    )
    predictor.momentum.step()
    features = compute_features(model, batch, task.uses, momentum=predictor.momentum)
    task.distillation = 0.4
    loss = task(model, batch, features).value
    close(loss, expected["train_loss_alpha04"])
    loss.backward()
    _check_gradients(shared, predictor, "train_alpha04", "ve")


def test_match_and_fill(shared: Path) -> None:
    """The verbs, on pictures and strings: ALBEF's cleaning, its missing [SEP], its square images."""
    predictor = vlp.load(file(shared, "pretrain"))
    picture = shared / "reference" / "albef" / "preprocess" / "rgb.png"
    with np.load(shared / "reference" / "albef" / "preprocess" / "image_outputs.npz") as images:
        expected = torch.from_numpy(images["test_64"])
    found = predictor.model.vision.normalize(Image(pixels=predictor.transform(open_image(picture))[None]))[0]
    close(found, expected, 1e-6)
    probability = predictor.match([picture, picture], ["A red bike!", "a red bike"])
    assert probability[0] == probability[1]
    assert 0 < probability[0] < 1
    filled = predictor.fill_mask([picture], ["A man riding a [MASK] bike."], 3)
    assert len(filled) == 1
    assert [len(tokens) for tokens in filled] == [3]
    assert filled[0][0][1] > filled[0][1][1]


def test_answers_are_ranked_as_the_original_ranks_them(shared: Path) -> None:
    """The first token counts twice; through the Predictor's verb the pictures come from files, so here on tensors."""
    predictor = vlp.load(file(shared, "vqa"))
    told = json.loads((shared / "reference" / "albef" / "vqa" / "texts.json").read_text())
    inputs, expected = arrays(shared, "vqa", "inputs"), arrays(shared, "vqa", "outputs")
    task, tokenizer = predictor.objectives["vqa"], predictor.tokenizer
    task.candidates = 5
    question = tokenizer(told["questions"], kind="question")
    assert torch.equal(question.ids, inputs["question_ids"])
    assert torch.equal(tokenizer(told["answers"], kind="answer").ids, inputs["answer_ids"])
    image = Image(pixels=inputs["image"])
    found = task.answer(predictor.model, tokenizer, image, question, names=told["answers"])
    for row, ids, probabilities in zip(found, expected["topk_ids"], expected["topk_probs"], strict=True):
        order = probabilities.argsort(descending=True)
        assert [answer for answer, _ in row] == [told["answers"][index] for index in ids[order].tolist()]
        close(torch.tensor([score for _, score in row]), probabilities[order])
    picture = shared / "reference" / "albef" / "preprocess" / "rgb.png"
    assert len(predictor.answer([picture], ["what is it?"], told["answers"])[0]) == 5


def test_nlvr2(shared: Path) -> None:
    predictor = vlp.load(file(shared, "nlvr"))
    inputs, expected = arrays(shared, "nlvr", "inputs"), arrays(shared, "nlvr", "outputs")
    ids = torch.arange(3)
    pixels = torch.stack(inputs["image"].chunk(2), 1)
    batch = Batch(
        id=ids, sample=ids, seed=ids, image=Image(pixels=pixels), label=inputs["targets"],
        question=Text(ids=inputs["input_ids"], mask=inputs["attention_mask"].bool()),
    )  # fmt: skip
    task = predictor.objectives["nlvr2"]
    close(task.logits(predictor.model, batch), expected["logits"])


def test_a_reranking_run_on_the_original_weights(shared: Path) -> None:
    """The task's figures equal a ranking of the original's score matrices, whose other entries are -100."""
    predictor = vlp.load(file(shared, "retrieval"))
    inputs, expected = arrays(shared, "retrieval", "inputs"), arrays(shared, "retrieval", "outputs")
    count, each = len(inputs["images"]), len(inputs["input_ids"]) // len(inputs["images"])
    ids = torch.arange(count)
    caption = Text(
        ids=inputs["input_ids"].view(count, each, -1), mask=inputs["attention_mask"].bool().view(count, each, -1)
    )
    batch = Batch(id=ids, sample=ids, seed=ids, image=Image(pixels=inputs["images"]), caption=caption)
    task = Retrieval(rerank=5)
    task.linked = {"itm": predictor.objectives["itm"]}
    task.reset()
    with torch.no_grad():
        task.update(predictor.model, batch, compute_features(predictor.model, batch, task.uses))
        figures = task.compute(predictor.model)
    text_id = ids.repeat_interleave(each)
    reference = recall_from_scores(expected["score_i2t"], ids, text_id, text_scores=expected["score_t2i"])
    for name in ("image_to_text_r1", "text_to_image_r1", "text_to_image_r5"):
        assert figures[name] == pytest.approx(reference[name]), name
    assert figures["rerank_pairs"] == int(((expected["score_i2t"] > -100) | (expected["score_t2i"].T > -100)).sum())
