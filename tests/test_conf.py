"""Every YAML that people run composes and builds, and one word is four files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from vlp.launch.compose import Composer, conf_folder, plain
from vlp.launch.config.resolve import resolve_config

CONF = conf_folder()
ROOT = Path(__file__).resolve().parent.parent


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str) -> dict[str, Any]:
    config = Composer(conf=CONF, config_name="train").compose(list(overrides))
    return resolve_config(config, Path("run"))


@pytest.mark.parametrize(("kind", "key"), [("objective", "objectives"), ("task", "tasks")])
def test_one_word_four_files(kind: str, key: str) -> None:
    words = {path.stem for path in (ROOT / "vlp" / key).glob("*.py")} - {"__init__", "base"}
    assert words
    assert (
        words
        == set(options(kind))
        == {p.stem.removeprefix("test_") for p in (ROOT / "tests" / key).glob("test_*.py")} - {"base"}
    )
    for word in words:
        node = composed(f"{kind}=[{word}]")[key]
        assert list(node) == [word]
        assert node[word]["_target_"].startswith(f"vlp.{key}.{word}.")


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, o) for g in ("model", "model/vision", "model/text", "model/projection", "model/fusion", "model/decoder",
                      "data", "transform", "tokenizer",
                      "optimizer", "schedule", "trainer", "logger", "experiment") for o in options(g)],
)  # fmt: skip
def test_every_choice_composes(group: str, option: str) -> None:
    whole = {"model/fusion": "albef_tiny", "model/decoder": "encoder_decoder_tiny"}  # the default model has neither
    first = [f"model={whole[group]}"] if group in whole else []
    config = composed(*first, f"{group}={option}", "checkpoint=null")  # some experiments go on from another's run
    assert OmegaConf.create(config) is not None


@pytest.mark.parametrize("callback", options("callbacks"))
def test_every_callback_composes(callback: str) -> None:
    assert composed(f"callbacks=[{callback}]")["callbacks"][callback]["_target_"]


def test_every_yaml_opens_with_a_comment() -> None:
    bare = [str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml") if not path.read_text().startswith("#")]
    assert bare == []


def test_the_hydra_node_never_reaches_a_run() -> None:
    assert "hydra" not in plain(Composer(conf=CONF, config_name="train").compose([]))
