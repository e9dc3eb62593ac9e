"""`vlp data pack OUT [key=value …]`: writes the data that a run with these overrides would read as tar shards."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from vlp.curation.composed_data import add_override_arguments
from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Run it again to continue after an interruption: complete shards are kept. "
        "Train on them with data=shards data.root=OUT."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    add_override_arguments(parser)
    parser.add_argument(
        "--samples", dest="samples_per_shard", type=int, default=2000, help="most samples of a shard (%(default)s)"
    )
    parser.add_argument("--side", type=int, help="shrink photos whose shorter side is longer, in pixels")
    parser.add_argument(
        "--quality", type=int, default=92, help="JPEG quality of the photos that are shrunk (%(default)s)"
    )
    parser.add_argument("--no-shuffle", dest="shuffle", action="store_false", help="keep the order of training samples")
    parser.add_argument(
        "--max-bad-fraction",
        type=float,
        default=0.01,
        help="largest fraction of a split that may be left out (%(default)s)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")


def run(options: argparse.Namespace) -> None:
    from vlp.curation.composed_data import build_only_source
    from vlp.data.datamodule import SPLITS
    from vlp.data.shards.pack import PackOptions, pack_splits
    from vlp.system.progress import Progress

    if "=" in str(options.out):
        raise UserError(f"{options.out}: the first word is the folder to write, before any KEY=VALUE")
    source = build_only_source(options.overrides, "pack")
    splits = {split: samples for split in SPLITS if len(samples := source.split(split))}
    with Progress("shards") as progress:
        manifest = pack_splits(
            splits,
            options.out,
            PackOptions(**{option.name: getattr(options, option.name) for option in fields(PackOptions)}),
            class_names=source.class_names,
            answer_names=source.answer_names,
            progress=progress.update,
        )
    for split, shards in manifest.splits.items():
        count, size = sum(shard.samples or 0 for shard in shards), sum(shard.bytes or 0 for shard in shards)
        left_out = manifest.left_out.get(split, 0)
        note = f"; {left_out} samples cannot be read and are left out" if left_out else ""
        print(f"{split}: {count:,} samples in {len(shards)} shards, {size / 1e6:,.1f} MB{note}")
