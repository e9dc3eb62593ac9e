"""Others' private names are touched in vlp/system/compat alone, and each of them has a contract test."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import vlp
from tests.system.compat import private_names, test_hydra, test_lightning, test_stdlib, test_torch, test_wandb
from tests.system.compat.private_names import foreign_names, is_private, read_classes, read_modules, violations

PACKAGE = Path(str(vlp.__file__)).parent
COMPAT = "vlp.system.compat"


def test_only_compat_touches_private_names() -> None:
    found = violations(read_modules(PACKAGE), allowed=COMPAT)
    assert not found, (
        "use a public name, or add a documented function to vlp/system/compat/ with a row in tests/system/compat/:\n"
        + "\n".join(found)
    )


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import torch._dynamo", "imports the private module _dynamo"),
        ("import torch._dynamo as dynamo", "imports the private module _dynamo"),
        ("from hydra._internal.utils import get_args_parser", "imports the private name _internal"),
        ("from torch.nn.modules.batchnorm import _BatchNorm", "imports the private name _BatchNorm"),
        ("from torch.nn.modules.batchnorm import _BatchNorm as Norm  # noqa", "imports the private name _BatchNorm"),
        ("from package.one import _helper", "imports the private name _helper"),
        ("import importlib\nimportlib.import_module('torch._dynamo')", "names the private _dynamo in import_module"),
        ("trainer._signal_connector", "uses the private attribute trainer._signal_connector"),
        ("trainer._signal_connector = None  # noqa: SLF001", "uses the private attribute trainer._signal_connector"),
        ("del trainer.loop._count", "uses the private attribute trainer.loop._count"),
        ("call()._count", "uses the private attribute call()._count"),
        ("trainer.__class__ = object", "assigns trainer.__class__"),
        ("setattr(trainer, '__class__', object)", "assigns __class__ in setattr"),
        ("getattr(strategy, '_timeout', None)", "names the private _timeout in getattr"),
        ("hasattr(strategy, '_timeout')", "names the private _timeout in hasattr"),
        ("setattr(strategy, '_timeout', 1)", "names the private _timeout in setattr"),
        ("delattr(strategy, '_timeout')", "names the private _timeout in delattr"),
        ("import operator\noperator.attrgetter('loop._count')", "names the private _count in attrgetter"),
        ("class A(Other):\n def f(self): return self._count", "uses the private attribute self._count"),
        ("class A(Other):\n def f(self): return super()._count", "uses the private attribute super()._count"),
        (
            "class A(Other):\n def f(self): return super(A, self)._count()",
            "uses the private attribute super(A, self)._count",
        ),
        (
            "class A(Other):\n @classmethod\n def f(cls): return cls._count",
            "uses the private attribute cls._count",
        ),
        (
            "class A:\n def f(self): self._count = 0\nclass B(Other):\n def f(self): return self._count",
            "uses the private attribute self._count",
        ),
        (
            "class A:\n def f(self): self._count = 0\ndef f(a: A): return a._count",
            "uses the private attribute a._count",
        ),
    ],
)
def test_what_is_rejected(code: str, found: str) -> None:
    assert [line.split(": ", 1)[1] for line in violations({"package.two": ast.parse(code)})] == [found]


@pytest.mark.parametrize(
    "code",
    [
        "from __future__ import annotations",
        "def f(self): return self.__dict__, type(self).__name__, self.__class__",
        "point._replace(x=1), point._asdict(), os._exit(1)",
        "for _ in (): pass",
        "class A:\n def f(self): self._count = 0\n def g(self): return self._count",
        "class A:\n _count = 0\n def g(self): return self._count",
        "class A:\n _count: int\n @classmethod\n def g(cls): return cls._count",
        "class A:\n def _f(self): pass\nclass B(A):\n def g(self): return super()._f()",
        "class A(Module):\n def f(self): self.register_buffer('_count', None)\n def g(self): return self._count",
    ],
)
def test_what_is_accepted(code: str) -> None:
    assert violations({"package.two": ast.parse(code)}) == []


def test_a_name_of_a_class_in_another_module() -> None:
    base = ast.parse("class A:\n def f(self): self._count = 0")
    child = ast.parse("from package.one import A\nclass B(A):\n def g(self): return self._count")
    assert violations({"package.one": base, "package.two": child}) == []
    assert violations({"package.one": ast.parse("class A: pass"), "package.two": child}) == [
        "package.two:3: uses the private attribute self._count"
    ]


def test_modules_of_compat_are_exempt_and_no_others() -> None:
    code = ast.parse("a._b")
    modules = {"vlp.system.compat.torch": code, "vlp.system.compatible": code, "vlp.system": code}
    assert [line.split(":")[0] for line in violations(modules, allowed=COMPAT)] == [
        "vlp.system.compatible",
        "vlp.system",
    ]


def _overridden(cls: type, own: set[str]) -> dict[str, str]:
    """Private names that a class of vlp defines and one of its foreign bases as well, with that base."""
    found = {}
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in ("vlp", "builtins", "abc", "typing"):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # written in C
            continue
        theirs = read_classes({"m": tree}).get(f"m.{base.__name__}")
        found |= dict.fromkeys(own & (theirs.names if theirs else set()), base.__qualname__)
    return found


def test_no_class_takes_a_private_name_of_its_base() -> None:
    """What it assigns would replace what the base keeps there, on purpose or not."""
    found = []
    for dotted, described in read_classes(read_modules(PACKAGE)).items():
        module, _, name = dotted.rpartition(".")
        own = set(filter(is_private, described.names))
        if module == "vlp.integrations.detectron2" and importlib.util.find_spec("detectron2") is None:
            continue
        cls = getattr(importlib.import_module(module), name, None) if own and described.bases else None
        if cls is not None and not dotted.startswith(COMPAT):
            found += [f"{dotted}.{attribute} is {base}'s" for attribute, base in _overridden(cls, own).items()]
    assert not found, "\n".join(found)


class _Base:
    def f(self) -> None:
        self._count = 0


def test_a_private_name_of_a_base_is_found() -> None:
    child = type("Child", (_Base,), {})
    assert _overridden(child, {"_count", "_other"}) == {"_count": "_Base"}


@pytest.mark.parametrize("tests", [test_hydra, test_lightning, test_stdlib, test_torch, test_wandb])
def test_every_private_name_has_a_contract(tests: ModuleType) -> None:
    library = tests.__name__.rpartition("test_")[2]
    file = PACKAGE / "system" / "compat" / f"{library}.py"
    used = foreign_names(ast.parse(file.read_text(encoding="utf-8")), f"{COMPAT}.{library}") - {"__class__"}
    named = {part for contract in tests.CONTRACTS for part in contract.name.replace(":", ".").split(".")}
    assert used <= named, f"{file.name}: no contract names {', '.join(sorted(used - named))}"


def test_every_module_of_compat_is_checked() -> None:
    files = {file.stem for file in (PACKAGE / "system" / "compat").glob("*.py")} - {"__init__"}
    here = {file.stem.removeprefix("test_") for file in Path(private_names.__file__).parent.glob("test_*.py")}
    assert files <= here
