"""The argument names of a `_target_`, read from its source without importing it.

So a mistyped argument in YAML or on the command line is found before torch is imported (seconds), even when it was
added with `+`. What cannot be read this way (compiled code, `**arguments`, names made at run time) is left to the
constructor itself.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

RESERVED = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def target_parameters(target: str) -> dict[str, str] | None:
    """Names (and annotations) that the class, function or method at this dotted path takes; None when its source does
    not tell."""
    found = _locate(target.split("."))
    return _accepted_parameters(*found) if found else None


def target_exists(target: str) -> bool:
    """False only when the source of `target` was found and nothing of that name is in it."""
    file, names = _module(target.split("."))
    if file is None:
        return False
    if not names or _definition(file, names[0]) is not None:
        return True
    text = file.read_text(encoding="utf-8")
    return "__getattr__" in text or "import *" in text


def _module(parts: list[str]) -> tuple[Path | None, list[str]]:
    """The source file of the longest prefix that is a module, and the names that are left."""
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        return None, parts
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None, parts
    file, rest = Path(spec.origin), parts[1:]
    while rest and file.name == "__init__.py":
        candidates = (file.parent / rest[0] / "__init__.py", file.parent / f"{rest[0]}.py")
        inner = next((path for path in candidates if path.is_file()), None)
        if inner is None:
            break
        file, rest = inner, rest[1:]
    return file, rest


@cache
def _statements(file: Path) -> list[ast.stmt]:
    def flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in body:
            yield statement
            if isinstance(statement, (ast.If, ast.Try)):
                yield from flat(statement.body)
                yield from flat(statement.orelse)

    return list(flat(ast.parse(file.read_text(encoding="utf-8")).body))


def _definition(file: Path, name: str) -> ast.stmt | None:
    for statement in _statements(file):
        if getattr(statement, "name", None) == name:
            return statement
        if isinstance(statement, ast.ImportFrom) and any((a.asname or a.name) == name for a in statement.names):
            return statement
        if isinstance(statement, ast.Assign) and any(getattr(t, "id", None) == name for t in statement.targets):
            return statement
    return None


def _locate(parts: list[str], depth: int = 6) -> tuple[Path, ast.stmt, list[str]] | None:
    """Follow re-exports to the file and statement that define the first name, with the names after it."""
    file, names = _module(parts)
    if file is None or not names or depth == 0:
        return None
    statement = _definition(file, names[0])
    if isinstance(statement, ast.ImportFrom):
        original = next(a.name for a in statement.names if (a.asname or a.name) == names[0])
        package = parts[: len(parts) - len(names)]
        if file.name != "__init__.py":
            package = package[:-1]
        base = package[: len(package) - statement.level + 1] if statement.level else []
        module = statement.module.split(".") if statement.module else []
        return _locate([*base, *module, original, *names[1:]], depth - 1)
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
        return file, statement, names[1:]
    return None


def _accepted_parameters(file: Path, statement: ast.stmt, rest: list[str], depth: int = 6) -> dict[str, str] | None:
    if isinstance(statement, ast.FunctionDef):
        return None if rest or statement.args.kwarg else _named_parameters(statement)
    if not isinstance(statement, ast.ClassDef) or depth == 0 or statement.keywords:
        return None
    name_sought = rest[0] if rest else "__init__"
    for member in statement.body:
        if isinstance(member, ast.FunctionDef) and member.name == name_sought:
            if not _forwards_keywords(member):
                return _accepted_parameters(file, member, rest[1:], depth)
            inherited = _inherited_parameters(file, statement, [name_sought], depth)
            return None if inherited is None else inherited | _named_parameters(member)
    return None if statement.decorator_list else _inherited_parameters(file, statement, rest, depth)


def _named_parameters(function: ast.FunctionDef) -> dict[str, str]:
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in named if a.arg not in ("self", "cls")}


def _forwards_keywords(function: ast.FunctionDef) -> bool:
    """Whether its `**arguments` go to the parent's function of the same name."""
    name = function.args.kwarg.arg if function.args.kwarg else None
    return name is not None and any(
        isinstance(call, ast.Call)
        and ast.unparse(call.func) == f"super().{function.name}"
        and any(keyword.arg is None and ast.unparse(keyword.value) == name for keyword in call.keywords)
        for call in ast.walk(function)
    )


def _inherited_parameters(file: Path, statement: ast.ClassDef, rest: list[str], depth: int) -> dict[str, str] | None:
    if len(statement.bases) != 1 or not isinstance(statement.bases[0], ast.Name):
        return None  # parents that cannot be followed
    name = statement.bases[0].id
    parent = _definition(file, name)
    if isinstance(parent, ast.ImportFrom) and parent.module and not parent.level:
        original = next(a.name for a in parent.names if (a.asname or a.name) == name)
        found = _locate([*parent.module.split("."), original])
        if found is None:
            return None
        file, parent, _ = found
    return _accepted_parameters(file, parent, rest, depth - 1) if isinstance(parent, ast.ClassDef) else None
