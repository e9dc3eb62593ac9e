"""README.md of an artifact: what it is, for whoever finds the folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp.deploy.runtime.manifest import Manifest
from vlp.system.atomic import atomic_write_text

NAME = "README.md"


def write_readme(folder: Path, manifest: Manifest) -> None:
    lines = [
        f"# A {manifest.family} model in {manifest.precision}, exported by vlp {manifest.version}",
        "",
        f"Verbs: {', '.join(manifest.verbs)}. It runs without torch:",
        "",
        "```python",
        "from vlp.deploy.runtime.engine import open_artifact",
        "",
        'engine = open_artifact("THIS FOLDER")',
        *_example(manifest),
        "```",
        "",
        f"`manifest.json` says what each graph takes and gives; `parity.npz` has inputs with the outputs of the eager model. "
        f"Weights: sha256 {manifest.checkpoint[:16]}….",
        "",
        "Measured by the export, with the runtime that serves it. difference: the largest from the eager model, as a share of the "
        "larger of 1 and the output's largest value; alone: of an input alone from itself in a batch; ms: CPU time of one thread.",
        "",
        *measured_table(manifest),
    ]
    if recall := manifest.parity.get("recall"):
        lines += ["", recall_sentence(recall)]
    if left_out := manifest.parity.get("left_out"):
        lines += ["", "Not part of it: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()) + "."]
    atomic_write_text(folder / NAME, "\n".join(lines) + "\n")


def recall_sentence(recall: Mapping[str, Any]) -> str:
    """recall: a `RecallComparison` as the manifest has it."""
    before, after = recall["model"], recall["artifact"]
    return (
        f"R@1 on {recall['images']} photos and {recall['captions']} captions, image to text / text to image: "
        f"{before[0]:.1f} / {before[1]:.1f} of the model, {after[0]:.1f} / {after[1]:.1f} of the artifact; "
        f"{100 * recall['overlap']:.1f} % of the ten best photos of a caption are the same."
    )


def _example(manifest: Manifest) -> list[str]:
    calls = {
        "similarity": 'engine.similarity(["photo.jpg"], ["a dog", "a cat"])',
        "answer": 'engine.answer(["photo.jpg"], ["what is it?"])',
        "caption": 'engine.caption(["photo.jpg"])',
        "detect": 'engine.detect(["photo.jpg"])',
        "segment": 'engine.segment(["photo.jpg"])',
        "classify": 'engine.classify(["photo.jpg"])',
        "match": 'engine.match(["photo.jpg"], ["a dog"])',
        "embed_images": 'engine.embed_images(["photo.jpg"])',
        "embed_texts": 'engine.embed_texts(["a dog"])',
    }
    return [call for verb, call in calls.items() if verb in manifest.verbs][:3]


def measured_table(manifest: Manifest) -> list[str]:
    """Lines of Markdown, a row for each graph."""
    latency = manifest.parity["latency_ms"]
    rows = [
        [
            name, f"{each['difference']:.1e}", f"{each['cosine']:.5f}", f"{each['alone']:.1e}",
            *(f"{latency[name][kind]:.1f}" if name in latency else "–" for kind in ("torch", "artifact")),
        ]
        for name, each in manifest.parity["graphs"].items()
    ]  # fmt: skip
    rows = [["graph", "difference", "mean cosine", "alone", "ms by torch", "ms"], *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]
