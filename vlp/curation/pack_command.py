"""`vlp data pack OUT [key=value …]`: the data that a run of these overrides would read, as tar shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlp.curation.composed_data import add_overrides
from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Run it again to go on after an interruption: shards that are complete are kept. "
        "Train on them with data=shards data.root=OUT."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    add_overrides(parser)
    parser.add_argument("--samples", type=int, default=2000, help="of a shard, at most (%(default)s)")
    parser.add_argument("--side", type=int, help="make photos smaller whose shorter side is above this, in pixels")
    parser.add_argument("--quality", type=int, default=92, help="of JPEGs that are made smaller (%(default)s)")
    parser.add_argument("--no-shuffle", action="store_true", help="keep the order of training samples")
    parser.add_argument(
        "--max-bad-fraction", type=float, default=0.01, help="of a split that may be left out (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")


def run(options: argparse.Namespace) -> None:
    from vlp.curation.composed_data import compose_data
    from vlp.data.datamodule import SPLITS
    from vlp.data.shards.pack import PackOptions, pack
    from vlp.system.progress import Progress

    if "=" in str(options.out):
        raise UserError(f"{options.out}: the first word is the folder to write, before any KEY=VALUE")
    source = compose_data(options.overrides).only("pack")
    splits = {split: found for split in SPLITS if len(found := source.split(split))}
    with Progress("shards") as progress:
        manifest = pack(
            splits,
            options.out,
            PackOptions(
                samples_per_shard=options.samples,
                side=options.side,
                quality=options.quality,
                shuffle=not options.no_shuffle,
                max_bad_fraction=options.max_bad_fraction,
                workers=options.workers,
            ),
            class_names=source.class_names,
            answer_names=source.answer_names,
            progress=progress.update,
        )
    for split, shards in manifest.splits.items():
        samples, size = sum(shard.samples or 0 for shard in shards), sum(shard.bytes or 0 for shard in shards)
        left = manifest.left_out.get(split, 0)
        told = f"; {left} samples cannot be read and are left out" if left else ""
        print(f"{split}: {samples:,} samples in {len(shards)} shards, {size / 1e6:,.1f} MB{told}")
