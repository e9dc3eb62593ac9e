"""Where a stranger finds what belongs to a module: its test, and for a data set its YAML."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import lightning as L
import pytest
import yaml

from vlp.data.datamodule import DataModule
from vlp.launch.config.choices import options

ROOT = Path(__file__).resolve().parent.parent
ABSTRACT = {"vlp/data/datamodule.py"}
SEVERAL_MODULES = {  # each tests what several modules of its folder, or of other packages, do together
    "deploy/runtime/test_without_torch.py",
    "deploy/serving/test_abuse.py",
    "doctor/test_planted_problems.py", "launch/config/test_optimizer_steps.py", "launch/sweep/test_cluster.py",
    "launch/sweep/test_ranks.py", "models/test_attend.py", "models/test_dropout.py", "models/test_pooled_only.py",
    "models/test_towers.py", "models/vision/test_tower_contract.py", "scenes/test_also_true.py", "system/compat/test_contract.py",
    "system/compat/test_private_names.py", "system/test_names.py", "test_conf.py", "test_docs.py", "test_tree.py",
    "test_wheel.py", "training/test_foreign_weights.py", "training/test_fsdp.py", "training/test_ranks_agree.py",
    "training/test_trainer_settings.py", "training/test_trainer_table.py",
}  # fmt: skip


def data_set_files() -> list[str]:
    """The modules that define a data module."""
    found = []
    for file in sorted([*ROOT.glob("vlp/data/**/*.py"), *ROOT.glob("vlp/datasets/**/*.py")]):
        if file.stem == "__init__":
            continue
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        members = inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if any(issubclass(member, L.LightningDataModule) and member.__module__ == name for _, member in members):
            found.append(file.relative_to(ROOT).as_posix())
    return sorted({*found} - ABSTRACT)


def test_data_sets_are_found() -> None:
    assert {"vlp/datasets/karpathy.py", "vlp/datasets/scenes.py", "vlp/data/mixture.py"} <= set(data_set_files())
    assert issubclass(DataModule, L.LightningDataModule)


@pytest.mark.parametrize("file", data_set_files())
def test_each_data_set_has_a_yaml_and_a_test_of_its_name(file: str) -> None:
    path = Path(file)
    assert path.stem in options("data"), f"add conf/data/{path.stem}.yaml"
    target = yaml.safe_load(options("data")[path.stem].read_text(encoding="utf-8"))["_target_"]
    assert target.startswith(".".join([*path.parent.parts, path.stem, ""])), target
    test = Path("tests", *path.parent.parts[1:], f"test_{path.stem}.py")
    assert (ROOT / test).is_file(), f"add {test}"


def test_tests_mirror_the_package() -> None:
    strays = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        relative = file.relative_to(ROOT / "tests")
        module = ROOT / "vlp" / relative.parent / relative.stem.removeprefix("test_")
        if relative.parts[0] not in ("behaviour", "gpu") and not (
            module.is_dir() or module.with_suffix(".py").is_file()
        ):
            strays.add(relative.as_posix())
    assert strays == SEVERAL_MODULES, (
        "a test has the name of its module; one of several modules is listed in SEVERAL_MODULES"
    )
