"""Names in vlp/: no word that once meant several things here (CONTRIBUTING.md, Words), and no two classes of one name."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AVOIDED = frozenset(
    {
        *(
            "told",
            "bare",
            "quiet",
            "apart",
            "held",
            "whole",
            "anew",
            "settle",
            "settles",
            "settled",
            "twin",
            "twins",
            "crew",
        ),
        *("tally", "patience", "util", "utils", "helper", "helpers", "manager", "managers"),
    }
)
ALLOWED = frozenset(
    {"held_out", "held_out_pairs", "whole_words"}
)  # terms of the field: a held-out split, whole-word masking


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "vlp").rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def defined_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Functions, classes, parameters, variables and attributes that a module defines, with their lines; aliases of renamed
    names are passed over."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.For, ast.comprehension, ast.NamedExpr, ast.withitem)):
            if isinstance(node, ast.Assign) and is_alias(node.value):
                continue
            for part in ast.walk(node):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    yield part.id, part.lineno
                elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    yield part.attr, part.lineno


def is_alias(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "RenamedMethod"


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name: rank_isHeld → rank, is, held."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def test_words_of_a_name() -> None:
    assert words("_wasToldBy_rank") & AVOIDED == {"told"}
    assert not words("threshold") & AVOIDED


def test_no_name_has_an_avoided_word() -> None:
    wrong = sorted(
        {
            f"{path.relative_to(ROOT)}:{line}: {name}"
            for path, tree in trees()
            for name, line in defined_names(tree)
            if name not in ALLOWED and words(name) & AVOIDED
        }
    )
    assert not wrong, "\n".join(["say in the field's words what these are (CONTRIBUTING.md, Words):", *wrong])


def test_no_two_classes_share_a_name() -> None:
    places = defaultdict(list)
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not {name: found for name, found in places.items() if len(found) > 1}
