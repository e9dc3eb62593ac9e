"""Python and libraries against the bounds of the project, and what this config needs beyond them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from vlp.doctor.finding import Finding, error, fine_finding
from vlp.launch.config.compose import PACKAGE
from vlp.launch.config.schema import dotted_nodes

# by the beginning of a _target_: the module that it imports when it runs, and how to get it
NEEDED = {
    "vlp.training.loggers.tensorboard": ("tensorboard", "pip install 'vlp[tensorboard]'"),
    "vlp.tokenizers.clip.": ("ftfy", "pip install 'vlp[clip]'"),
}
ADDRESSES = {"s3": "s3fs", "http": "aiohttp", "https": "aiohttp", "gs": "gcsfs"}


def version_bounds(project: Path = PACKAGE.parent / "pyproject.toml") -> tuple[str, list[str]]:
    """Python's bound and the requirements: of the checkout, else of the installed package."""
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        return table["requires-python"], table["dependencies"]
    distribution = importlib.metadata.metadata("vlp")
    needed = importlib.metadata.requires("vlp") or []
    return distribution["Requires-Python"] or "", [line for line in needed if "extra ==" not in line]


def check_python(bound: str, version: tuple[int, int, int] | None = None) -> Finding:
    found = ".".join(map(str, version or sys.version_info[:3]))
    if SpecifierSet(bound).contains(found):
        return fine_finding("packages.python", f"Python {found} ({bound})")
    return error("packages.python", f"Python {found} is outside {bound}", "uv venv --python 3.12 .venv && make train")


def check_versions(required: Sequence[str]) -> Iterator[Finding]:
    """One finding for each library that is missing or out of range, else one for all."""
    wrong = 0
    for line in required:
        requirement = Requirement(line)
        fix = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong += 1
            yield error("packages.versions", f"{requirement.name} is not installed", fix)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong += 1
            excluded = any(one.operator == "!=" and one.version == found for one in requirement.specifier)
            distribution = "is refused: that release is known to be harmful" if excluded else "is out of range"
            yield error(
                "packages.versions", f"{requirement.name} {found} {distribution} ({requirement.specifier})", fix
            )
    if not wrong:
        yield fine_finding("packages.versions", f"{len(required)} libraries within their bounds")


def check_optional_packages(config: dict[str, Any]) -> Iterator[Finding]:
    """Libraries that only some configs need."""
    needed: dict[str, tuple[str, str]] = {}
    for place, node in dotted_nodes(config):
        if isinstance(node, dict) and isinstance(node.get("_target_"), str):
            for begin, (module, fix) in NEEDED.items():
                if node["_target_"].startswith(begin):
                    needed[module] = (place, fix)
        elif place.endswith("root") and isinstance(node, str) and (found := ADDRESSES.get(node.partition("://")[0])):
            needed[found] = (place, "pip install 'vlp[stream]'" if found != "gcsfs" else "pip install gcsfs")
    missing = {
        module: distribution for module, distribution in needed.items() if importlib.util.find_spec(module) is None
    }
    for module, (place, fix) in missing.items():
        yield error("packages.optional", f"{place} needs {module}, which is not installed", fix)
    if not missing:
        yield fine_finding("packages.optional", ", ".join(needed) or "this config needs no optional library")
