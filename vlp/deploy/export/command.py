"""`vlp export CHECKPOINT FOLDER`: an artifact that runs without torch, if it computes what the checkpoint computes."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from vlp.prediction.command import add_architecture_arguments, architecture
from vlp.system import exit_codes
from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "FOLDER appears when the artifact has passed its gate: in float32 its outputs are those of the checkpoint, in other "
        "precisions they point the same way, and with --gate recall does not fall. Exit code 0: written; 1: it did not pass, and "
        "nothing is written; 2: the command or the checkpoint is wrong."
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a run folder, or any file that vlp.load reads"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="to write; an artifact that is there is replaced")
    parser.add_argument(
        "--precision", default="float32", metavar="NAME", help="float32, bfloat16 or int8 (%(default)s)"
    )
    parser.add_argument(
        "--gate",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="a data set whose recall may not fall, such as data=flickr8k",
    )
    parser.add_argument(
        "--calibrate", action="extend", nargs="+", default=[], metavar="KEY=VALUE",
        help="a data set whose photos choose the ranges of static int8, the fastest; without, weights alone become int8",
    )  # fmt: skip
    parser.add_argument(
        "--only",
        action="extend",
        nargs="+",
        default=[],
        metavar="GRAPH",
        help="graphs to write, such as image text (all)",
    )
    parser.add_argument(
        "--square", action="store_true", help="of ViLT: all pictures become squares of the tower's size"
    )
    parser.add_argument(
        "--jpeg-multiple", type=int, metavar="N",
        help="decode a JPEG at a half, a quarter or an eighth of its sides as long as that is N times what the model reads: "
        "2 makes photos of a telephone up to five times as fast, with slightly other pixels (in full)",
    )  # fmt: skip
    parser.add_argument("--tokenizer", type=Path, metavar="PATH", help="the vocabulary, for checkpoints without theirs")
    add_architecture_arguments(parser)


def run(options: argparse.Namespace) -> int | None:
    if not options.checkpoint.expanduser().exists():
        raise FileNotFoundError(f"{options.checkpoint}: there is no such checkpoint")
    require_packages()
    from vlp.deploy.export.destination import check_destination
    from vlp.deploy.export.export import ExportOptions, export
    from vlp.deploy.export.gate import GateError
    from vlp.predictor import load

    check_destination(options.folder)
    names = ("precision", "only", "gate", "calibrate", "square", "jpeg_multiple")
    chosen = ExportOptions(**{name: getattr(options, name) for name in names})
    predictor = load(options.checkpoint, tokenizer=options.tokenizer, **architecture(options))
    try:
        manifest = export(predictor, options.folder, chosen)
    except GateError as error:
        print(f"vlp export: the artifact was not written: {error}", file=sys.stderr)
        return exit_codes.FAILED
    for line in summary(manifest, options.folder):
        print(line)
    return None


def summary(manifest: Any, folder: Path) -> list[str]:
    """What was written, measured and left out."""
    from vlp.deploy.export.readme import measured_table, recall_sentence

    lines = [*measured_table(manifest)]
    if recall := manifest.parity.get("recall"):
        lines.append(recall_sentence(recall))
    lines += [f"not exported: {name} ({why})" for name, why in manifest.parity["left_out"].items()]
    return [*lines, f"{folder}: {', '.join(manifest.verbs)}"]


def require_packages() -> None:
    """Raises UserError where torch's exporter or the runtime is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"vlp export needs {name}, which is not installed: pip install 'vlp[export]'")
