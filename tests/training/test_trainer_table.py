"""docs/guides/trainer.md lists every argument of Lightning's Trainer, with a test that sees its effect or with the refusal."""

from __future__ import annotations

import ast
import html
import inspect
from pathlib import Path

import lightning as L
import pytest

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.trainer_settings import REFUSED, TRAINING_ONLY

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    cells[0].strip("`"): (cells[1], html.unescape(cells[2]))
    for line in (ROOT / "docs" / "guides" / "trainer.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 3
}
ARGUMENTS = [name for name in inspect.signature(L.Trainer.__init__).parameters if name != "self"]
VALUES = {"logger": "true", "callbacks": "[]", "overfit_batches": "2", "reload_dataloaders_every_n_epochs": "1"}


def compose(*overrides: str, command: str = "train") -> None:
    Composer(conf=conf_folder(), config_name=command).compose(list(overrides))


def test_every_argument_has_one_row() -> None:
    assert list(ROWS) == ARGUMENTS


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name not in REFUSED])
def test_a_row_names_a_test(name: str) -> None:
    assert ROWS[name][0] != "refused"
    file, _, function = ROWS[name][1].strip("`").partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_the_one_of_the_row(name: str) -> None:
    assert ROWS[name] == ("refused", REFUSED[name])
    with pytest.raises(ConfigError) as refusal:
        compose(f"+trainer.{name}={VALUES.get(name, 'false')}")
    assert f"trainer.{name}=" in str(refusal.value)
    assert f" has no effect: {REFUSED[name]}" in str(refusal.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.precision=bf16-true", "choose 32-true, bf16-mixed or 16-mixed"),
        ("trainer.precision=64-true", "choose 32-true, bf16-mixed or 16-mixed"),
        ("+trainer.strategy=fsdp", "choose trainer=fsdp"),
        ("+trainer.val_check_interval='00:00:10:00'", "give a number of batches"),
        ("trainer.max_time=8", "give days, hours, minutes and seconds"),
        ("trainer.max_time='8 hours'", "give days, hours, minutes and seconds"),
    ],
)
def test_values_that_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compose(override)


def test_an_evaluation_refuses_the_limit_of_the_other_split() -> None:
    for split, other in (("test", "val"), ("val", "test")):
        compose(f"trainer.limit_{split}_batches=1", f"split={split}", "checkpoint=x", command="evaluate")
        with pytest.raises(ConfigError, match=f"set trainer.limit_{split}_batches"):
            compose(f"trainer.limit_{other}_batches=1", f"split={split}", "checkpoint=x", command="evaluate")


@pytest.mark.parametrize("name", sorted(TRAINING_ONLY))
def test_an_evaluation_refuses_settings_of_training(name: str) -> None:
    with pytest.raises(ConfigError, match=f"trainer.{name} has no effect: an evaluation does not train"):
        compose(
            f"++trainer.{name}={'true' if name in ('sync_batchnorm', 'detect_anomaly') else 1}",
            "checkpoint=x",
            command="evaluate",
        )
