"""Which private names of other packages a package's modules touch, found in their syntax trees.

A private name begins with an underscore and is not a dunder. One that the class itself, or a class of the same package that it
inherits from, defines is its own; every other one belongs to somebody else, and an upgrade may take it away.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# documented by Python although they begin with an underscore
DOCUMENTED = {"_asdict", "_fields", "_field_defaults", "_make", "_replace", "_exit"}
RECEIVERS = {"self", "cls"}
# functions that take names of attributes or modules as text
BY_NAME = {"getattr", "setattr", "hasattr", "delattr", "__setattr__", "__getattribute__", "attrgetter", "methodcaller"}
BY_NAME |= {"import_module", "__import__"}


def is_private(name: str) -> bool:
    dunder = name.startswith("__") and name.endswith("__")
    return name.startswith("_") and name.strip("_") != "" and not dunder and name not in DOCUMENTED


@dataclass
class Class:
    """names: that its body and its methods define.  bases: dotted names, as the module's imports resolve them."""

    names: set[str] = field(default_factory=set)
    bases: list[str] = field(default_factory=list)


def read_modules(root: Path) -> dict[str, ast.Module]:
    """Dotted name to syntax tree of every module of the package in the folder `root`."""
    modules = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root.parent).with_suffix("").parts
        modules[".".join(parts).removesuffix(".__init__")] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return modules


def read_classes(modules: Mapping[str, ast.Module]) -> dict[str, Class]:
    """Dotted name to class, of every class in the modules."""
    return {
        f"{module}.{node.name}": _read_class(node, _imports(tree), module)
        for module, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def foreign_names(tree: ast.Module, module: str) -> set[str]:
    """Every private name of somebody else that one module touches."""
    return {name for _, name, _ in _check(tree, module, read_classes({module: tree}))}


def violations(modules: Mapping[str, ast.Module], *, allowed: str | None = None) -> list[str]:
    """`module:line: what` of every private name of somebody else, outside of modules below `allowed`."""
    classes = read_classes(modules)
    return [
        f"{module}:{line}: {what}"
        for module, tree in modules.items()
        if allowed is None or not f"{module}.".startswith(f"{allowed}.")
        for line, _, what in sorted(set(_check(tree, module, classes)))
    ]


def _imports(tree: ast.Module) -> dict[str, str]:
    """Local name to dotted name, of every import of a module."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
    return found


def _dotted(node: ast.expr, imports: Mapping[str, str], module: str) -> str:
    if isinstance(node, ast.Subscript):
        node = node.value
    name = ast.unparse(node)
    first, _, rest = name.partition(".")
    return f"{imports.get(first, f'{module}.{first}')}.{rest}".rstrip(".")


def _read_class(node: ast.ClassDef, imports: Mapping[str, str], module: str) -> Class:
    names = set()
    for inner in ast.walk(node):
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(inner.name)
        elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and _is_receiver(inner.value):
            names.add(inner.attr)
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    for call in (inner for inner in ast.walk(node) if isinstance(inner, ast.Call)):
        # self.register_buffer("_name", …) defines an attribute as well
        if isinstance(call.func, ast.Attribute) and call.func.attr.startswith("register_") and call.args:
            names |= {word.value for word in call.args[:1] if isinstance(word, ast.Constant)}
    return Class(names, [_dotted(base, imports, module) for base in node.bases])


def _is_receiver(node: ast.expr) -> bool:
    """Whether an expression is the object or the class that a method belongs to: self, cls, super()."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
        return True
    return isinstance(node, ast.Name) and node.id in RECEIVERS


def _defines(name: str, of: str, classes: Mapping[str, Class]) -> bool:
    found = classes.get(of)
    return found is not None and (name in found.names or any(_defines(name, base, classes) for base in found.bases))


def _check(tree: ast.Module, module: str, classes: Mapping[str, Class]) -> Iterator[tuple[int, str, str]]:
    owners: dict[ast.AST, str] = {}
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        owners |= dict.fromkeys(ast.walk(owner), f"{module}.{owner.name}")  # an inner class is walked later, and wins
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for name in [*(node.module or "").split("."), *(alias.name for alias in node.names)]:
                if is_private(name):
                    yield node.lineno, name, f"imports the private name {name}"
        elif isinstance(node, ast.Import):
            for name in (part for alias in node.names for part in alias.name.split(".")):
                if is_private(name):
                    yield node.lineno, name, f"imports the private module {name}"
        elif isinstance(node, ast.Attribute):
            own = _is_receiver(node.value) and node in owners and _defines(node.attr, owners[node], classes)
            if is_private(node.attr) and not own:
                yield node.lineno, node.attr, f"uses the private attribute {ast.unparse(node)}"
            if node.attr == "__class__" and isinstance(node.ctx, (ast.Store, ast.Del)):
                yield node.lineno, node.attr, f"assigns {ast.unparse(node)}"
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            for word in words if function in BY_NAME else ():
                for part in filter(is_private, word.split(".")):
                    yield node.lineno, part, f"names the private {part} in {function}"
                if word == "__class__" and function in ("setattr", "__setattr__"):
                    yield node.lineno, word, f"assigns __class__ in {function}"
