"""Checkpoints made smaller: which layers and hidden units stay, and that the result is an ordinary checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import vlp
from vlp.build import build
from vlp.checkpoints import load
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.convert import convert
from vlp.checkpoints.shrink import kept_layers, largest_units, shrink
from vlp.cli import main
from vlp.structures import Image, Text
from vlp.system.errors import UserError
from vlp.tokenizers.trained import TrainedTokenizer

VIT = {
    "_target_": "vlp.models.vision.clip_vit.ClipVit",
    "image_size": 16,
    "patch_size": 8,
    "width": 16,
    "layers": 6,
    "heads": 2,
}
TEXTS = {
    "ClipText": {"_target_": "vlp.models.text.clip_text.ClipText", "width": 16, "layers": 4, "heads": 2},
    "BertText": {"_target_": "vlp.models.text.bert.BertText", "width": 16, "layers": 4, "heads": 2},
}


def write(path: Path, text: str = "ClipText", **vision: Any) -> Checkpoint:
    tokenizer = TrainedTokenizer(size=300, context_length=9)
    tokenizer.train(["a red dog", "a blue cat"])
    model = {
        "_target_": "vlp.models.vlm.VisionLanguageModel",
        "vision": VIT | vision,
        "text": TEXTS[text] | {"vocabulary_size": 300, "context_length": 9},
        "projection": {"_target_": "vlp.models.projection.linear.LinearProjection", "_partial_": True, "width": 8},
    }
    torch.manual_seed(0)
    state = dict(build(model).state_dict())
    transform = {"eval": {"_target_": "vlp.data.transforms.EvalTransform", "image_size": 16}}
    config = {"model": model, "transform": transform}
    checkpoint = Checkpoint(config=config, state=state, tokenizer_json=tokenizer.to_json())
    load.save(checkpoint, path)
    return checkpoint


@pytest.mark.parametrize("text", TEXTS)
def test_the_result_loads_trains_shapes_and_has_the_kept_weights(text: str, tmp_path: Path) -> None:
    before = write(tmp_path / "large.ckpt", text)
    settings = shrink(tmp_path / "large.ckpt", tmp_path / "small.ckpt", layers="0.5", mlp="24")
    hidden = "hidden_width=24" if text == "BertText" else "mlp_ratio=1.5"
    assert settings == [
        "model.vision.layers=3",
        "model.vision.mlp_ratio=1.5",
        "model.text.layers=2",
        f"model.text.{hidden}",
    ]
    predictor = vlp.load(tmp_path / "small.ckpt")
    assert len(predictor.model.vision.blocks) == 3
    assert len(predictor.model.text.blocks) == 2
    assert predictor.embed_texts(["a red dog"]).shape == (1, 8)
    after = predictor.model.state_dict()
    for new, old in enumerate((0, 3, 5)):  # 2.5 is rounded up
        large, small = (
            {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            for state, start in ((before.state, f"vision.blocks.{old}."), (after, f"vision.blocks.{new}."))
        )
        units = largest_units(large["mlp.fc1.weight"], large["mlp.fc1.bias"], large["mlp.fc2.weight"], 24)
        assert torch.equal(small["attention.qkv.weight"], large["attention.qkv.weight"])
        assert torch.equal(small["mlp.fc1.weight"], large["mlp.fc1.weight"][units])
        assert torch.equal(small["mlp.fc2.weight"], large["mlp.fc2.weight"][:, units])
    assert torch.equal(after["projection.image.weight"], before.state["projection.image.weight"])


def test_units_without_effect_go_first_and_the_model_answers_the_same(tmp_path: Path) -> None:
    before = write(tmp_path / "large.ckpt")
    for key, value in before.state.items():
        if key.endswith("mlp.fc2.weight"):
            value[:, ::2] = 0  # half of the units write nothing
    load.save(before, tmp_path / "sparse.ckpt")
    shrink(tmp_path / "sparse.ckpt", tmp_path / "small.ckpt", mlp="0.5")
    models = [vlp.load(tmp_path / name).model for name in ("sparse.ckpt", "small.ckpt")]
    image = Image(pixels=torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8))
    text = Text(ids=torch.randint(1, 300, (3, 5)), mask=torch.ones(3, 5, dtype=torch.bool))
    with torch.no_grad():
        for encode in ("encode_image", "encode_text"):
            large, small = (getattr(model, encode)(image if "image" in encode else text).pooled for model in models)
            torch.testing.assert_close(small, large)


def test_one_tower_alone_and_there_and_back_as_another_format(tmp_path: Path) -> None:
    write(tmp_path / "large.ckpt", patch_size=4)
    shrink(tmp_path / "large.ckpt", tmp_path / "small.ckpt", layers="1,4", towers=["vision"])
    small = load.read(tmp_path / "small.ckpt", {})
    assert small.config["model"]["text"]["layers"] == 4
    convert(tmp_path / "small.ckpt", tmp_path / "hf", "hugging_face")
    back = load.read(tmp_path / "hf", {})
    assert back.state.keys() == small.state.keys()
    assert all(torch.equal(back.state[key], value) for key, value in small.state.items())


def test_evenly_spaced_layers_are_those_of_distilbert() -> None:
    assert kept_layers("6", 12, tower="text") == [0, 2, 4, 7, 9, 11]
    assert kept_layers("0.5", 12, tower="text") == [0, 2, 4, 7, 9, 11]
    assert kept_layers("12", 12, tower="text") == list(range(12))
    assert kept_layers("1", 12, tower="text") == [0]
    assert kept_layers("3,5,", 12, tower="text") == [3, 5]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "nothing to leave out"),
        ({"layers": "7"}, "the vision tower has 6 layers: give a number from 1 to 6"),
        ({"layers": "0"}, "the vision tower has 6 layers"),
        ({"layers": "1.5"}, "or a share such as 0.5"),
        ({"layers": "half"}, "'half' is no whole number"),
        ({"layers": "0,6"}, "the vision tower has layers 0 to 5"),
        ({"layers": "2,1"}, "list some of them, rising"),
        ({"layers": "0,5"}, "the text tower has layers 0 to 3"),
        ({"mlp": "65"}, "each perceptron of the vision tower has 64 hidden units"),
        ({"mlp": "0.001"}, "give a number from 1 to 64"),
    ],
)
def test_impossible_sizes_are_one_sentence_and_write_nothing(
    options: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    write(tmp_path / "large.ckpt")
    with pytest.raises(UserError, match=sentence):
        shrink(tmp_path / "large.ckpt", tmp_path / "small.ckpt", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["large.ckpt"]


def test_towers_of_others_and_missing_ones_are_refused(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "large.ckpt")
    tower = {"_target_": "vlp.models.vision.small_cnn.SmallCnn", "image_size": 16, "channels": 2}
    config = {"model": {**checkpoint.config["model"], "vision": tower}}
    state = dict(build(config["model"]).state_dict())
    load.save(dataclasses.replace(checkpoint, config=config, state=state), tmp_path / "cnn.ckpt")
    with pytest.raises(UserError, match="the vision tower is a SmallCnn, and those that can be shrunk are ClipVit"):
        shrink(tmp_path / "cnn.ckpt", tmp_path / "small.ckpt", layers="2")
    with pytest.raises(FileExistsError, match="give a new place"):
        shrink(tmp_path / "large.ckpt", tmp_path / "cnn.ckpt", layers="2")


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "large.ckpt")
    small = tmp_path / "new" / "small.ckpt"
    assert main(["shrink", str(tmp_path / "large.ckpt"), str(small), "--layers", "2", "--tower", "vision"]) == 0
    assert capsys.readouterr().out == f"{small}: model.vision.layers=2 model.vision.mlp_ratio=4.0\n"
    assert main(["shrink", str(tmp_path / "large.ckpt"), str(small), "--layers", "2"]) == 2
    assert capsys.readouterr().err.startswith("vlp shrink: ")
