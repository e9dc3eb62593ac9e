"""Packages of the extras are imported where they are needed, so that everything else runs without them."""

from __future__ import annotations

import ast
from pathlib import Path

VLP = Path(__file__).resolve().parents[2] / "vlp"
OPTIONAL = {
    "aiohttp", "detectron2", "faster_coco_eval", "ftfy", "open_clip", "optuna", "pyarrow", "pycocotools", "ray", "s3fs", "scipy",
    "sentencepiece", "sklearn", "submitit", "tensorboard", "torchcodec",
}  # fmt: skip
EXEMPT = {"integrations/detectron2.py"}  # which is imported by those who have it


def _imported(file: Path) -> set[str]:
    """Packages that a module imports when it is imported itself."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_no_module_needs_an_extra_to_be_imported() -> None:
    needed = {str(file.relative_to(VLP)): _imported(file) & OPTIONAL for file in VLP.rglob("*.py")}
    assert {name: packages for name, packages in needed.items() if packages and name not in EXEMPT} == {}
    assert needed["integrations/detectron2.py"] == {"detectron2"}, "the test sees imports"
