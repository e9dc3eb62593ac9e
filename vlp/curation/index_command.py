"""`vlp data index ROOT`: reads shards of another origin once and writes the manifest that training on them needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "For a remote ROOT the manifest is written here (--out) and is to be put beside the shards."
    parser.add_argument("root", metavar="ROOT", help="folder or address of the shards")
    for split in ("train", "val", "test"):
        parser.add_argument(
            f"--{split}", nargs="+", default=[], metavar="SHARD", help=f"names or patterns of its {split} shards"
        )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write manifest.json (ROOT, if it is a folder)"
    )
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="for remote shards ($VLP_CACHE, else ~/.cache/vlp/shards)"
    )
    parser.add_argument("--cache-bytes", type=int, default=100 << 30, help="of all of them (%(default)s)")


def run(options: argparse.Namespace) -> None:
    import sys

    from vlp.data.datamodule import SPLITS
    from vlp.data.shards.manifest import NAME, Manifest, Shard
    from vlp.data.shards.pack import describe
    from vlp.datasets.shards import Shards
    from vlp.system.atomic import atomic_write_text

    remote = "://" in options.root
    if not remote and not Path(options.root).is_dir():
        raise FileNotFoundError(f"{options.root}: there is no such folder")
    out = options.out or (None if remote else Path(options.root) / NAME)
    if out is None:
        raise UserError(f"{options.root} is an address: say with --out where the manifest is to be written")
    splits = {split: getattr(options, split) for split in SPLITS if getattr(options, split)}
    data = Shards(
        name="shards",
        root=options.root,
        splits=splits,
        cache=options.cache,
        cache_bytes=options.cache_bytes,
        transform={"train": len, "eval": len},
    )
    if not splits:  # as `vlp data pack` names them, else all of them are training shards
        named = {split: f"{split}-*.tar" for split in SPLITS if data.store.matching(f"{split}-*.tar")}
        data.splits = splits = named or {"train": "*.tar"}
        told = "; ".join(f"{split}: {pattern}" for split, pattern in splits.items())
        print(f"taken as {told}", file=sys.stderr)
    found: dict[str, list[Shard]] = {}
    for split in data.splits or {}:
        listed = data.shards(split)
        found[split] = []
        for number, shard in enumerate(listed, 1):
            described, faults = describe(data.store, shard.name)
            found[split].append(described)
            told = "".join(f"; {count} × {kind}" for kind, count in faults.items())
            print(f"{number}/{len(listed)} {shard.name}: {described.samples} samples{told}", file=sys.stderr)
    atomic_write_text(out, Manifest(splits=found).text())
    print(out)
