"""Every YAML that people run composes and builds what it names, offline, and one word is four files."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import PIL.Image
import pytest
import tokenizers
import torch
import yaml
from torch import nn

from vlp.build import build
from vlp.data.datamodule import DataModule
from vlp.data.mixture import Mixture
from vlp.launch.config.choices import groups, options
from vlp.launch.config.compose import Composer, conf_folder, config_folders, plain_config, study_folders
from vlp.launch.config.resolve import resolve_config
from vlp.launch.sweep.settings import check_settings
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.tasks.base import Task
from vlp.tokenizers.base import Tokenizer
from vlp.training.module import VisionLanguageModule
from vlp.training.portable_config import set_vocabulary_size

CONF = conf_folder()
ROOT = Path(__file__).resolve().parent.parent
WHOLE = {"model/fusion": "albef_tiny", "model/decoder": "encoder_decoder_tiny"}  # the default model has neither
HUB = {"model/vision=transformers": "vision", "model/text=transformers": "text"}  # they name weights of the hub
SIZE = 300  # of vocabularies


@cache
def composer() -> Composer:
    return Composer(conf=CONF, config_name="train")


def composed(*overrides: str, folder: Path = Path("run")) -> dict[str, Any]:
    return resolve_config(composer().compose(list(overrides)), folder)


def chosen(group: str, option: str) -> list[str]:
    """The overrides that choose it, in a config that has a use for it. A study that starts from another's run has none here."""
    several = group in ("objective", "task", "callbacks")
    word = f"{group}=[{option}]" if several else f"{group}={option}"
    return [*([f"model={WHOLE[group]}"] if group in WHOLE else []), word, "checkpoint=null"]


def cases(*names: str) -> Any:
    pairs = [(group, option) for group in names for option in options(group)]
    return pytest.mark.parametrize(("group", "option"), pairs, ids=[f"{group}={option}" for group, option in pairs])


def study_options() -> set[tuple[str, str]]:
    files = [(folder, file) for folder in study_folders() for file in folder.rglob("*.yaml")]
    return {(file.parent.relative_to(folder).as_posix(), file.stem) for folder, file in files}


def of_a_study(config: dict[str, Any]) -> bool:
    """Whether parts come from packages that are no part of vlp's environment; their own tests build them."""
    return "'experiments." in repr(config)


def fill_open_settings(nodes: dict[str, Any]) -> None:
    """What other parts of a run decide, see vlp/training/open_settings.py: here it need not fit them."""
    decided: dict[str, Any] = {"states_width": 8, "embed_width": 8, "teacher_widths": {"large": 9}}
    decided |= {"class_names": ["cat", "dog"], "segment_names": ["cat", "dog"]}
    for node in nodes.values():
        decided["level_widths"] = [8] * len(node.get("levels") or ())
        if node.get("class_weights"):
            decided["segment_names"] = [f"class {number}" for number in range(len(node["class_weights"]))]
        node |= {name: value for name, value in decided.items() if node.get(name, 0) is None}


@pytest.mark.parametrize(("kind", "key"), [("objective", "objectives"), ("task", "tasks")])
def test_one_word_four_files(kind: str, key: str) -> None:
    words = {path.stem for path in (ROOT / "vlp" / key).glob("*.py")} - {"__init__", "base"}
    assert words
    assert (
        words
        == set(options(kind))
        == {p.stem.removeprefix("test_") for p in (ROOT / "tests" / key).glob("test_*.py")} - {"base"}
    )
    for word, file in options(kind).items():
        assert yaml.safe_load(file.read_text())["_target_"].startswith(f"vlp.{key}.{word}.")


def test_every_group_is_tested_here() -> None:
    """A new config group gets a test that builds its options."""
    built = {
        "model",
        "model/vision",
        "model/vision/merging",
        "model/text",
        "model/projection",
        "model/fusion",
        "model/decoder",
        "objective",
        "task",
        "loss_weights",
    }
    built |= {
        "data",
        "data/loading",
        "transform",
        "tokenizer",
        "optimizer",
        "schedule",
        "trainer",
        "logger",
        "callbacks",
    }
    assert set(groups()) == built | {"experiment", "sweep"}


@cases("model/vision", "model/text", "model/projection", "model/fusion", "model/decoder")
def test_every_part_of_a_model_builds(group: str, option: str) -> None:
    """On no device: shapes alone; those of conf/model build in tests/models/test_vlm.py. Weights of the hub are left out, and
    what names packages of a study composes."""
    config = composed(*chosen(group, option))["model"]
    if of_a_study(config):
        assert (group, option) in study_options()
        return
    if part := HUB.get(f"{group}={option}"):
        config[part] |= {
            "weights": False,
            "config": {"model_type": "vit" if part == "vision" else "bert"},
            "name": None,
        }
    set_vocabulary_size(config, SIZE)
    with torch.device("meta"):
        model = build(config)
    assert isinstance(model, VisionLanguageModel)
    assert sum(parameter.numel() for parameter in model.parameters()) > 0
    assert getattr(model, group.rpartition("/")[2]) is not None


@cases("model/vision/merging")
def test_every_merging_merges_tokens(group: str, option: str) -> None:
    merging = build(composed("model/vision=vit_tiny", f"{group}={option}")["model"]["vision"]["merging"])
    assert sum(merging.schedule(layers=6, patches=64)) > 0


@cases("loss_weights")
def test_all_loss_weights_weigh_each_objective(group: str, option: str) -> None:
    weights = build(composed(f"{group}={option}")["loss_weights"])(names=["itc", "mlm"])
    assert torch.isfinite(weights("mlm", torch.tensor(2.0)))


@cases("objective", "task")
def test_every_objective_and_task_builds(group: str, option: str) -> None:
    node = composed(*chosen(group, option))[f"{group}s"]
    assert list(node) == [option]
    set_vocabulary_size(node, SIZE)
    fill_open_settings(node)
    made = build(node)[option]
    assert isinstance(made, Task if group == "task" else Objective)
    assert made.weight == node[option]["weight"]


@cases("data")
def test_every_data_set_builds(group: str, option: str, tmp_path: Path) -> None:
    config = composed(*chosen(group, option), f"data.root={tmp_path}" if option != "mixture" else "seed=0")
    transform = {split: build(node) for split, node in config["transform"].items()}
    tokenizer = build(config["tokenizer"])
    made = build(config["data"], tokenizer=tokenizer, transform=transform, seed=config["seed"])
    assert isinstance(made, Mixture if option == "mixture" else DataModule)
    assert made.name == config["data"]["name"]
    loading = yaml.safe_load(options("data/loading")["default"].read_text())
    assert option == "mixture" or loading.keys() <= config["data"].keys()


def test_data_sets_say_only_what_they_load_otherwise() -> None:
    """What stands in conf/data/loading is not repeated in a data set's own file."""
    shared = yaml.safe_load(options("data/loading")["default"].read_text())
    for name, file in options("data").items():
        repeated = {key for key, value in yaml.safe_load(file.read_text()).items() if shared.get(key, "none") == value}
        assert repeated == set(), name


@cases("transform")
def test_every_transform_makes_pixels(group: str, option: str) -> None:
    config = composed(*chosen(group, option))
    picture = PIL.Image.new("RGB", (90, 120), (200, 10, 30))
    for node in config["transform"].values():
        pixels = build(node)(picture)
        assert pixels.dtype == torch.uint8
        assert min(pixels.shape[1:]) == config["model"]["vision"]["image_size"]


def wordpiece(folder: Path) -> list[str]:
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]) + "\n")
    return [f"tokenizer.vocabulary={folder / 'vocab.txt'}"]


def byte_pairs(folder: Path) -> list[str]:
    """OpenAI's file without its merges would be another vocabulary: the one that open_clip installs is taken."""
    pytest.importorskip("open_clip")
    return []


def saved_tokenizer(folder: Path) -> list[str]:
    words = tokenizers.models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "dog": 3}, unk_token="<unk>")
    tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
    return [f"tokenizer.vocabulary={folder}"]


VOCABULARIES: dict[str, Callable[[Path], list[str]]] = {
    "clip": byte_pairs,
    "wordpiece": wordpiece,
    "hugging_face": saved_tokenizer,
}


@cases("tokenizer")
def test_every_tokenizer_reads_a_caption(group: str, option: str, tmp_path: Path) -> None:
    more = VOCABULARIES[option](tmp_path) if option in VOCABULARIES else ["tokenizer.size=300"]
    tokenizer: Tokenizer = build(composed(*chosen(group, option), *more)["tokenizer"])
    if option == "trained":
        tokenizer.train(["a dog", "a cat"])
    text = tokenizer(["a dog"])
    assert text.ids.shape == text.mask.shape
    assert int(text.ids.max()) < tokenizer.size


@cases("optimizer", "schedule")
def test_every_optimizer_and_schedule_takes_a_step(group: str, option: str) -> None:
    config = composed(*chosen(group, option))
    layers = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = build(config["optimizer"])(nn.ModuleDict({"model": layers}))
    schedule = build(config["schedule"])(optimizer, 10)
    before = [parameter.detach().clone() for parameter in layers.parameters()]
    layers(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    schedule.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, layers.parameters(), strict=True))


@cases("trainer")
def test_every_trainer_builds(group: str, option: str) -> None:
    node = composed(*chosen(group, option), "trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true")
    made = build(node["trainer"], logger=False, enable_checkpointing=False)
    assert isinstance(made, L.Trainer)
    assert made.max_epochs == node["trainer"]["max_epochs"]


@cases("logger")
def test_every_logger_builds(group: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    if option == "tensorboard":
        pytest.importorskip("tensorboard")
    nodes = composed(*chosen(group, option), folder=tmp_path).get("loggers") or {}
    assert list(nodes) == ([] if option == "none" else [option])
    for node in nodes.values():
        assert isinstance(build(node), L.pytorch.loggers.Logger)


@cases("callbacks")
def test_every_callback_builds(group: str, option: str, tmp_path: Path) -> None:
    nodes = composed(*chosen(group, option), folder=tmp_path)["callbacks"]
    assert list(nodes) == [option]
    assert isinstance(build(nodes[option]), L.Callback)


@cases("sweep")
def test_every_sweep_is_accepted(group: str, option: str) -> None:
    if option == "optuna":
        pytest.importorskip("optuna")
    settings = check_settings(composed(*chosen(group, option))["sweep"])
    assert settings["jobs"] == 1


@cases("experiment")
def test_every_experiment_builds_its_model_and_losses(group: str, option: str) -> None:
    """The parts fit each other: each objective and task finds the parts of the model and the heads that it needs."""
    config = composed(*chosen(group, option))
    assert config["name"] == option or option not in config["name"]
    if of_a_study(config):
        assert (group, option) in study_options()
        return
    if "bert-base" in repr(config["model"]):
        config["model"]["text"] |= {"weights": False, "config": {"model_type": "bert"}}
    config.setdefault("objectives", {})  # tasks may be all that is trained
    for part in ("model", "objectives", "tasks"):
        set_vocabulary_size(config[part], SIZE)
        if part != "model":
            fill_open_settings(config[part])
    with torch.device("meta"):
        module = VisionLanguageModule(
            model=build(config["model"]),
            objectives=build(config["objectives"]),
            tasks=build(config["tasks"]),
            freeze=config["freeze"],
            momentum=config["momentum"],
        )
    assert {*config["objectives"], *config["tasks"]} == set(module.objectives.keys())
    assert module.trained


def test_the_project_names_nothing_of_its_studies() -> None:
    """They depend on vlp, and an installed vlp is without them."""
    files = [*CONF.rglob("*.yaml"), *(ROOT / "vlp").rglob("*.py")]
    assert len(files) > 200
    naming = [str(file.relative_to(ROOT)) for file in files if re.search(r"experiments\.\w", file.read_text())]
    assert naming == []


def test_every_yaml_opens_with_a_comment() -> None:
    files = [path for folder in config_folders() for path in folder.rglob("*.yaml")]
    assert [str(path) for path in files if not path.read_text().startswith("#")] == []


def test_the_hydra_node_never_reaches_a_run() -> None:
    assert "hydra" not in plain_config(composer().compose([]))
