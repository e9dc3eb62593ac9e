"""`vlp data index ROOT`: writes the manifest that training needs for shards that `vlp data pack` did not write."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "For a remote ROOT, write the manifest to a local file (--out) and upload it beside the shards."
    parser.add_argument("root", metavar="ROOT", help="folder or address of the shards")
    for split in ("train", "val", "test"):
        parser.add_argument(
            f"--{split}", nargs="+", default=[], metavar="SHARD", help=f"names or patterns of the {split} shards"
        )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write manifest.json (ROOT, if it is a folder)"
    )
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="for remote shards ($VLP_CACHE, else ~/.cache/vlp/shards)"
    )
    parser.add_argument("--cache-bytes", type=int, default=100 << 30, help="largest size of the cache (%(default)s)")


def run(options: argparse.Namespace) -> None:
    import sys

    from vlp.data.datamodule import SPLITS
    from vlp.data.issues import DataError, join_first_five
    from vlp.data.shards.manifest import MANIFEST_NAME, Shard, ShardManifest
    from vlp.data.shards.pack import describe_shard
    from vlp.datasets.shards import Shards
    from vlp.system.atomic import atomic_write_text, check_output_file

    remote = "://" in options.root
    if not remote and not Path(options.root).is_dir():
        raise FileNotFoundError(f"{options.root}: there is no such folder")
    out = options.out or (None if remote else Path(options.root) / MANIFEST_NAME)
    if out is None:
        raise UserError(f"{options.root} is an address: give with --out the local file to write the manifest to")
    check_output_file(out, suffixes=(".json",))
    splits = {split: getattr(options, split) for split in SPLITS if getattr(options, split)}
    data = Shards(
        name="shards",
        root=options.root,
        splits=splits,
        cache=options.cache,
        cache_bytes=options.cache_bytes,
        transform={"train": len, "eval": len},
    )
    if not splits:  # the names that `vlp data pack` gives, else all are training shards
        named = {split: f"{split}-*.tar" for split in SPLITS if data.store.list_matching(f"{split}-*.tar")}
        splits = named or {"train": "*.tar"}
        data.splits |= splits
        assigned = "; ".join(f"{split}: {pattern}" for split, pattern in splits.items())
        print(f"assumed {assigned}", file=sys.stderr)
    manifest: dict[str, list[Shard]] = {}
    problems: list[str] = []
    for split in filter(data.splits.get, SPLITS):
        shards = data.shards(split)
        manifest[split] = []
        for number, shard in enumerate(shards, 1):
            described, index = describe_shard(data.store, shard.name)
            manifest[split].append(described)
            print(f"{number}/{len(shards)} {shard.name}: {described.samples} samples", file=sys.stderr)
            faults = [
                f"{count} × {kind}: {join_first_five(index.examples[kind])}" for kind, count in index.faults.items()
            ]
            if not described.samples and not faults:
                faults = [f"shard without samples: {data.store.address(shard.name)}"]
            print(*(f"  {fault}\n" for fault in faults), sep="", end="", file=sys.stderr)
            if split != "train":
                problems += faults
    if problems:
        message = (
            f"{join_first_five(problems)}; leaving them out of val or test would change the metric: pack the data again"
        )
        raise DataError("samples left out", f"{message}; {out} is not written")
    left_out = {split: sum(shard.left_out for shard in shards) for split, shards in manifest.items()}
    atomic_write_text(out, ShardManifest(splits=manifest, left_out=left_out).to_json())
    print(out)
