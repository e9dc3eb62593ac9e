"""Users' mistakes are told from defects by their type."""

from __future__ import annotations

import ast
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlp
from vlp.system.errors import UserError, is_user_error

PACKAGE = Path(str(vlp.__file__)).parent
DISGUISED = {"ValueError", "Exception", "BaseException"}  # a user's mistake among them would look like a defect


def disguised(code: str) -> list[int]:
    """Lines that raise or make one of DISGUISED."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        named = node.func if isinstance(node, ast.Call) else node.exc if isinstance(node, ast.Raise) else None
        if isinstance(named, ast.Name) and named.id in DISGUISED:
            found.add(node.lineno)
    return sorted(found)


def test_vlp_raises_no_plain_value_error() -> None:
    found = {
        str(file.relative_to(PACKAGE.parent)): lines
        for file in sorted(PACKAGE.rglob("*.py"))
        if (lines := disguised(file.read_text(encoding="utf-8")))
    }
    assert not found, f"raise vlp.system.errors.UserError, whose text reaches the user as one sentence: {found}"


@pytest.mark.parametrize(
    "code", ["raise ValueError('x')", "raise ValueError", "raise Exception('x') from error", "e = ValueError('x')"]
)
def test_a_plain_error_is_found(code: str) -> None:
    assert disguised(code) == [1]


@pytest.mark.parametrize(
    "code", ["raise UserError('x')", "raise", "try: f()\nexcept ValueError: pass", "raise KeyError('x')", "raise error"]
)
def test_other_errors_are_accepted(code: str) -> None:
    assert disguised(code) == []


def subclasses(kind: type[UserError]) -> Iterator[type[UserError]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("vlp."):
            yield child
        yield from subclasses(child)


def test_every_user_error_is_made_from_its_text() -> None:
    """As torch makes it again from what a data worker raised."""
    for file in PACKAGE.rglob("*.py"):
        if "(UserError" in file.read_text(encoding="utf-8"):
            importlib.import_module(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts))
    kinds = [UserError, *subclasses(UserError)]
    assert {"ConfigError", "DataError", "ImageError", "NotFinite"} <= {kind.__name__ for kind in kinds}
    for kind in kinds:
        error = kind("a sentence")
        assert (str(error), type(pickle.loads(pickle.dumps(error)))) == ("a sentence", kind)
        assert is_user_error(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("x"), True),
        (FileNotFoundError("x"), True),
        (OSError(28, "No space left on device"), True),
        (PermissionError("x"), True),
        (ConnectionResetError("x"), False),
        (TimeoutError("x"), False),
        (ValueError("x"), False),
        (KeyError("x"), False),
        (RuntimeError("x"), False),
        (ZeroDivisionError("x"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_errors_are_for_the_user(error: BaseException, expected: bool) -> None:
    assert is_user_error(error) is expected
