"""ViLT's numbers, gradients included, from its own checkpoints; and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.checkpoints.fixtures import arrays, check_norms
from tests.checkpoints.vilt_numbers import close, image, opened, text
from vlp.build import build
from vlp.checkpoints import load, vilt
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import to_theirs
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.mlm import MLM
from vlp.objectives.wpa import WPA
from vlp.structures import Batch, Features, Image, Text, Tokens
from vlp.tasks.nlvr2 import NLVR2

LABELS = torch.tensor([1, 1, 0, 0])  # of the recorded image-text pairs


def encoded(model: VisionLanguageModel, inputs: dict[str, Tensor], name: str = "image") -> tuple[Tokens, Tokens]:
    return model.encode_text(text(inputs)), model.encode_image(image(inputs[name]))


def check_gradients(model: VisionLanguageModel, heads: nn.ModuleDict, folder: Path, name: str) -> None:
    """Of every parameter the norm, of some every number, under the original's names."""
    named = {**dict(model.named_parameters()), **dict(heads.named_parameters())}
    ours = {key: p.grad for key, p in named.items() if p.grad is not None}
    table = [row for row in vilt.TABLE if row.ours is not None]
    theirs = vilt.add_leading_dimensions(to_theirs(ours, table))
    check_norms(theirs, folder / f"grad_norms_{name}.json")
    for key, expected in arrays(folder / f"grads_{name}.npz").items():
        close(theirs[key], expected)


@pytest.fixture
def pretrained(shared: Path) -> Path:
    return shared / "reference" / "vilt" / "pretrain"


@torch.no_grad()
def test_features_of_images_of_different_sizes(pretrained: Path) -> None:
    _, model, _ = opened(pretrained / "checkpoint.ckpt")
    inputs, expected = arrays(pretrained / "inputs.npz"), arrays(pretrained / "outputs_infer.npz")
    words, patches = encoded(model, inputs)
    fused = model.fuse(words, patches)
    length = words.states.shape[1]
    assert patches.mask is not None
    assert patches.mask.sum(1).tolist() == expected["image_masks"].sum(1).tolist()
    close(fused.pooled, expected["cls_feats"])
    close(fused.states[:, :length][words.mask], expected["text_feats"][words.mask])
    for name, states in (("visual_embed_raster", patches.states), ("image_feats_raster", fused.states[:, length:])):
        for row, own in enumerate(expected[name]):
            real = own[~own.isnan().any(-1)]
            close(states[row, 1 : 1 + len(real)], real)
    close(fused.states[:, length], expected["image_feats"][:, 0])


@torch.no_grad()
def test_a_subset_of_the_patches(pretrained: Path) -> None:
    """The recorded draw of ten patches an image; where they stand in the sequence changes nothing."""
    _, model, _ = opened(pretrained / "checkpoint.ckpt")
    inputs, expected = arrays(pretrained / "inputs.npz"), arrays(pretrained / "outputs_infer_maxlen10.npz")
    words, patches = encoded(model, inputs)
    columns = image(inputs["image"]).size[:, 1] // model.vision.patch_size
    chosen = expected["patch_index"][..., 0] * columns[:, None] + expected["patch_index"][..., 1]
    kept = torch.cat([torch.zeros(4, 1, dtype=torch.int64), 1 + chosen], dim=1)
    states = patches.states.gather(1, kept[..., None].expand(-1, -1, patches.states.shape[-1]))
    fused = model.fuse(words, Tokens(states=states, pooled=patches.pooled))
    close(fused.pooled, expected["cls_feats"])
    close(fused.states[:, words.states.shape[1] :], expected["image_feats"])


@torch.no_grad()
def test_one_grey_pixel_hides_a_patch_of_the_original_and_none_of_ours(pretrained: Path) -> None:
    _, model, _ = opened(pretrained / "checkpoint.ckpt")
    inputs, expected = arrays(pretrained / "inputs.npz"), arrays(pretrained / "outputs_infer_zero_pixel.npz")
    known = Image(pixels=expected["image"], size=image(inputs["image"]).size)
    words, patches = model.encode_text(text(inputs)), model.encode_image(known)
    close(model.fuse(words, patches).pooled[1:], expected["cls_feats"][1:])
    assert (model.fuse(words, patches).pooled[0] - expected["cls_feats"][0]).abs().max() > 1e-4
    assert patches.mask is not None
    patches.mask[0, 1 + 6 + 1] = False  # row 1, column 1 of six columns
    close(model.fuse(words, patches).pooled, expected["cls_feats"])


def test_masked_language_modelling(pretrained: Path) -> None:
    _, model, heads = opened(pretrained / "checkpoint.ckpt")
    inputs, expected = arrays(pretrained / "inputs.npz"), arrays(pretrained / "outputs_objectives.npz")
    masked, labels = text(inputs, "text_ids_mlm"), inputs["text_labels_mlm"]
    memory = model.project_memory(model.encode_image(image(inputs["image"])))
    mlm = heads["mlm"]
    assert isinstance(mlm, MLM)
    every = mlm.logits(model, masked, memory, masked.mask)
    close(every, expected["mlm_logits"][masked.mask], 2e-5)
    chosen = labels != -100
    loss = mlm.loss(model, Features(memory=memory), masked, memory, chosen, labels[chosen], torch.arange(4))
    close(loss.value, expected["mlm_loss"])
    loss.value.backward()
    check_gradients(model, heads, pretrained, "mlm")


def test_image_text_matching_and_word_patch_alignment(pretrained: Path) -> None:
    _, model, heads = opened(pretrained / "checkpoint.ckpt")
    inputs, expected = arrays(pretrained / "inputs.npz"), arrays(pretrained / "outputs_objectives.npz")
    assert expected["itm_labels"].tolist() == LABELS.tolist()
    inputs["image"][2:] = inputs["false_image_0"][2:]
    words, patches = encoded(model, inputs)
    logits = heads["itm"].head(model.fuse(words, patches).pooled)
    close(logits, expected["itm_logits"])
    matching = F.cross_entropy(logits, LABELS)
    close(matching, expected["itm_loss"])
    wpa = WPA()
    alignment = wpa.weight * wpa.loss(model, words, patches, LABELS == 1).value
    close(alignment, expected["itm_wpa_loss"])
    (matching + alignment).backward()
    check_gradients(model, heads, pretrained, "itm_wpa")


def test_question_answering(shared: Path) -> None:
    folder = shared / "reference" / "vilt" / "vqa"
    _, model, heads = opened(folder / "checkpoint.ckpt")
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    pooled = model.fuse(*encoded(model, inputs)).pooled
    close(pooled, expected["cls_feats"])
    logits = heads["vqa"].classifier(pooled)
    close(logits, expected["vqa_logits"])
    loss = F.binary_cross_entropy_with_logits(logits, inputs["vqa_targets"]) * logits.shape[1]
    close(loss, expected["vqa_loss"])
    loss.backward()
    check_gradients(model, heads, folder, "vqa")


def pairs(pixels: Tensor, words: Text, label: Tensor) -> Batch:
    ids = torch.arange(len(pixels))
    return Batch(id=ids, sample=ids, seed=ids, image=image(pixels), question=words, label=label)


def test_two_images(shared: Path) -> None:
    folder = shared / "reference" / "vilt" / "nlvr2"
    _, model, heads = opened(folder / "checkpoint.ckpt")
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    both = torch.stack([inputs["image_0"], inputs["image_1"]], dim=1)
    batch = pairs(both, text(inputs), inputs["answers"])
    task = heads["nlvr2"]
    assert isinstance(task, NLVR2)
    close(task.logits(model, batch), expected["nlvr2_logits"])
    loss = task(model, batch, Features()).value
    close(loss, expected["nlvr2_loss"])
    loss.backward()
    check_gradients(model, heads, folder, "nlvr2")


def test_a_second_image_starts_as_a_copy_of_the_first(shared: Path) -> None:
    folder = shared / "reference" / "vilt"
    grown = vilt.add_second_image_embedding(load.read(folder / "pretrain" / "checkpoint.ckpt", {}).state)
    expected = arrays(folder / "nlvr2" / "outputs.npz")["token_type_embeddings_after_load"]
    assert torch.equal(grown["fusion.types.weight"], expected)
    assert torch.equal(vilt.add_second_image_embedding(grown)["fusion.types.weight"], expected)


def test_retrieval(shared: Path) -> None:
    """The recorded run started from the pre-training file, its score from the matching head's row of a match."""
    folder = shared / "reference" / "vilt" / "irtr"
    _, model, heads = opened(folder.parent / "pretrain" / "checkpoint.ckpt")
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    irtr = build({"_target_": "vlp.objectives.irtr.IRTR", "width": 32, "negatives": 2})
    irtr.load_state_dict({"head.weight": heads["itm"].head.weight[1:], "head.bias": heads["itm"].head.bias[1:]})
    close(irtr.head.weight.data, expected["rank_weight"], 0.0)
    close(irtr.head.bias.data, expected["rank_bias"], 0.0)
    words, patches = encoded(model, inputs)
    rows, columns = torch.arange(4).repeat_interleave(4), torch.arange(4).repeat(4)
    scores = irtr.pair_score(model, words.select(columns), patches.select(rows)).view(4, 4)
    close(scores, expected["score_image_by_text"])
    false = [model.encode_text(text(inputs, f"false_text_{n}_ids", f"false_text_{n}_masks")) for n in (0, 1)]
    ranked = torch.stack([irtr.pair_score(model, own, patches) for own in (words, *false)], dim=1)
    loss = irtr.loss(ranked, torch.ones(4, 2, dtype=torch.bool)).value
    close(loss, expected["irtr_loss"])
    loss.backward()
    check_gradients(model, nn.ModuleDict({"irtr": irtr}), folder, "irtr")


@pytest.mark.parametrize("name", ["pretrain", "vqa", "nlvr2"])
def test_the_way_back_is_bit_equal(shared: Path, tmp_path: Path, name: str) -> None:
    path = shared / "reference" / "vilt" / name / "checkpoint.ckpt"
    vilt.write(load.read(path, {}), tmp_path / "again.ckpt")
    found, expected = (torch.load(p, weights_only=True)["state_dict"] for p in (tmp_path / "again.ckpt", path))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vqa_dict.json", {str(n): f"answer {n}" for n in range(11)}),
        ("labels.json", [f"answer {n}" for n in range(11)]),
        ("config.json", {"num_heads": 4, "id2label": {str(n): f"answer {n}" for n in range(11)}}),
    ],
)
def test_answers_beside_the_file(shared: Path, tmp_path: Path, file: str, content: object) -> None:
    path = tmp_path / "vilt.ckpt"
    path.write_bytes((shared / "reference" / "vilt" / "vqa" / "checkpoint.ckpt").read_bytes())
    (tmp_path / file).write_text(json.dumps(content))
    found = load.read(path, {"vision_heads": 4}).config["objectives"]["vqa"]["answers"]
    assert found == [f"answer {n}" for n in range(11)]


def small(heads: int) -> Checkpoint:
    """Another size than the recorded ones, with a head each of matching and masking."""
    torch.manual_seed(0)
    ours = {
        "text.embedding.weight": (50, 24), "text.positions.weight": (9, 24), "text.token_types.weight": (2, 24),
        "text.norm.weight": (24,), "text.norm.bias": (24,), "vision.class_token": (24,), "vision.positions": (5, 24),
        "vision.patches.weight": (24, 3, 8, 8), "vision.patches.bias": (24,), "fusion.types.weight": (2, 24),
        "fusion.norm.weight": (24,), "fusion.norm.bias": (24,), "fusion.pooler.weight": (24, 24), "fusion.pooler.bias": (24,),
        "itm.head.weight": (2, 24), "itm.head.bias": (2,),
    }  # fmt: skip
    for layer in range(2):
        for key, shape in {
            "norm1.weight": (24,), "norm1.bias": (24,), "norm2.weight": (24,), "norm2.bias": (24,),
            "attention.qkv.weight": (72, 24), "attention.qkv.bias": (72,), "attention.out.weight": (24, 24),
            "attention.out.bias": (24,), "mlp.fc1.weight": (36, 24), "mlp.fc1.bias": (36,), "mlp.fc2.weight": (24, 36),
            "mlp.fc2.bias": (24,),
        }.items():  # fmt: skip
            ours[f"fusion.blocks.{layer}.{key}"] = shape
    tensors = {key: torch.randn(shape) for key, shape in ours.items()}
    return vilt.build_checkpoint(tensors, Path(), heads=heads, max_patches=None, dropout=0.0, activation="gelu")


def test_another_size_and_its_heads(tmp_path: Path) -> None:
    path = tmp_path / "vilt.ckpt"
    vilt.write(small(3), path)
    with pytest.raises(ValueError, match=r"width of 24 is no multiple of 64, .* give .*vision_heads"):
        load.build_model(load.read(path, {}))
    three = load.build_model(load.read(path, {"vision_heads": 3}))
    assert [block.attention.heads for block in three.fusion.blocks] == [3, 3]
    (tmp_path / "config.json").write_text(json.dumps({"num_heads": 6, "max_image_len": 3, "drop_rate": 0.2}))
    six = load.build_model(load.read(path, {}))
    assert six.fusion.blocks[0].attention.heads == 6
    assert six.vision.max_patches == 3
    assert six.fusion.blocks[0].dropout.p == 0.2
    assert load.build_model(load.read(path, {"text_heads": 2})).fusion.blocks[0].attention.heads == 2
    with pytest.raises(ValueError, match="ViLT has one transformer"):
        load.read(path, {"text_heads": 2, "vision_heads": 3})


def test_another_image_size_changes_the_transform_alone(tmp_path: Path) -> None:
    """The position embeddings are fitted to each image from the grid that they were trained on."""
    vilt.write(small(3), tmp_path / "vilt.ckpt")
    plain, larger = (
        load.read(tmp_path / "vilt.ckpt", {"vision_heads": 3, **size}) for size in ({}, {"image_size": 32})
    )
    assert larger.config["transform"]["eval"]["image_size"] == 32
    assert torch.equal(larger.state["vision.positions"], plain.state["vision.positions"])
    model = load.build_model(larger)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 32, 48), dtype=np.uint8))
    assert model.encode_image(Image(pixels=pixels)).grid == (4, 6)
