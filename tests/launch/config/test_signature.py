"""Argument names read from source must be those that an import would give."""

import inspect
import subprocess
import sys

import pytest

from vlp.launch.config.signature import target_exists, target_parameters


@pytest.mark.parametrize(
    "target", ["torch.optim.AdamW", "torch.optim.adamw.AdamW", "lightning.Trainer", "torch.nn.modules.linear.Linear"]
)
def test_equals_the_real_signature(target):
    module, _, name = target.rpartition(".")
    real = inspect.signature(getattr(__import__(module, fromlist=[name]), name)).parameters
    assert set(target_parameters(target)) == set(real) - {"self"}


@pytest.mark.parametrize("target", ["torch.optim.NoSuch", "functools.partial", "no.such.module", "builtins.dict", "x"])
def test_what_cannot_be_read_is_left_to_the_constructor(target):
    assert target_parameters(target) is None


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_follows_reexports_inheritance_and_methods(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write(
        tmp_path,
        "shop/__init__.py",
        "from .inner.deep import Child as Kid\nfrom shop.inner import make\nraise SystemExit\n",
    )
    write(tmp_path, "shop/inner/__init__.py", "def make(a, /, b, *, c=1): ...\ndef loose(a, **more): ...\n")
    deep = "class Parent:\n    def __init__(self, *, x): ...\n    @classmethod\n    def load(cls, path): ...\n"
    write(tmp_path, "shop/inner/deep.py", deep + "class Child(Parent): ...\n")
    assert set(target_parameters("shop.Kid")) == {"x"}
    assert set(target_parameters("shop.Kid.load")) == {"path"}
    assert set(target_parameters("shop.make")) == {"a", "b", "c"}
    assert target_parameters("shop.inner.loose") is None
    assert target_exists("shop.Kid")
    assert target_exists("shop.inner.deep")
    assert not target_exists("shop.inner.deeper.Kid")
    assert not target_exists("shop.inner.Nothing")


def test_reads_without_importing():
    code = "import sys\nfrom vlp.launch.config.signature import target_parameters\n"
    code += "assert 'lr' in target_parameters('torch.optim.AdamW')\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_follows_arguments_that_are_passed_on_to_a_parent_of_another_file():
    accepted = target_parameters("vlp.datasets.scenes.Scenes")
    assert accepted is not None
    assert accepted["scene_seed"] == "int"  # its own
    assert accepted["restval"] == "bool"  # Karpathy's
    assert accepted["captions"] == "str | int"  # DataModule's
