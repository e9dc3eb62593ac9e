"""`vlp search "a red car"`: the photos that show it, best first."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from vlp.deploy.index.index_command import add_store_arguments
from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        'A text that begins with + or - has several terms, to be seen and not to be seen: vlp search "+a beach +a dog -people". '
        "Scores are dot products of unit embeddings, -1 to 1; those of texts and of photos are not comparable with each other."
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what the photos show, as a caption would say it")
    parser.add_argument("--like", type=Path, metavar="PHOTO", help="photos like this file; with TEXT: both count")
    parser.add_argument("--weight", type=float, metavar="W", help="of --like against TEXT, 0 to 1 (0.5)")
    parser.add_argument(
        "--region", metavar="L,T,R,B", help="the part of --like that counts: left, top, right, bottom from 0 to 1"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="TEXT", help="what must not be seen; may be repeated"
    )
    parser.add_argument("--folder", metavar="DIR", help="only photos below it")
    parser.add_argument(
        "--since", metavar="DATE", help="first year, month or day they were taken in: 2024, 2024-05, 2024-05-31"
    )
    parser.add_argument(
        "--until", metavar="DATE", help="last year, month or day; photos without an EXIF date are left out"
    )
    parser.add_argument("--k", type=int, default=20, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="how many of the best to pass over")
    parser.add_argument("--unfold", action="store_true", help="a line for each copy, not one for all copies of a photo")
    parser.add_argument(
        "--exact", action="store_true", help="compare all photos, also where signs would choose candidates"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line: id, path, score, taken, copies")
    parser.add_argument("--open", action="store_true", help="open the best photo with the program for it")
    add_store_arguments(parser)


def run(options: argparse.Namespace) -> None:
    if options.text is None and options.like is None:
        raise UserError('say what to search for: vlp search "a red car", or --like PHOTO')
    if options.like is not None and not options.like.expanduser().is_file():
        lack = "is a folder, and no photo" if options.like.expanduser().is_dir() else "there is no such photo"
        raise FileNotFoundError(f"{options.like}: {lack}")
    region = parse_region(options.region)
    if options.weight is not None and (options.like is None or options.text is None):
        raise UserError("--weight is between a text and the photo of --like: give both, or leave it out")
    if region is not None and options.like is None:
        raise UserError("--region is the part of the photo of --like that counts: give --like too, or leave it out")
    index = open_options(options)
    hits = index.search(
        options.text, options.like and options.like.expanduser(), options.k, options.offset, without=options.without,
        weight=0.5 if options.weight is None else options.weight, region=region, folder=options.folder,
        since=options.since, until=options.until,
        fold=not options.unfold, exact=options.exact or None,
    )  # fmt: skip
    for hit in hits:
        print(json.dumps(dataclasses.asdict(hit), ensure_ascii=False) if options.json else line_of(hit))
    if not hits:
        print(f"no photos: {reason(index, options)}", file=sys.stderr)
    if hits and options.open:
        open_file(hits[0].path)


def line_of(hit: Any) -> str:
    from vlp.system.units import printable

    copies = f"   (+ {len(hit.copies)} {'copy' if len(hit.copies) == 1 else 'copies'})" if hit.copies else ""
    return f"{hit.score:.3f}  {(hit.taken or '')[:10]:10}  {printable(hit.path)}{copies}"


def reason(index: Any, options: argparse.Namespace) -> str:
    if index.count == 0:
        return "the index is empty"
    if options.offset:
        return f"fewer than {options.offset + 1} match"
    return "none is in the folder or of the dates that were asked for"


def parse_region(text: str | None) -> tuple[float, float, float, float] | None:
    """Raises UserError."""
    if text is None:
        return None
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--region {text}: expected four numbers from 0 to 1, as 0.1,0.2,0.5,0.9") from error
    return left, top, right, bottom


def open_options(options: argparse.Namespace) -> Any:
    """The index that the options name, with its engine."""
    from vlp.deploy.index.locations import artifact_of, default_store
    from vlp.deploy.index.photo_index import open_index
    from vlp.deploy.index.remote import is_remote, open_remote_index
    from vlp.deploy.index.store import read_manifest

    if options.store is not None and is_remote(options.store):
        if options.engine is None:
            raise UserError(f"--store {options.store}: name the model that made it with --engine ARTIFACT")
        return open_remote_index(options.store, open_engine(artifact_of(Path(), options.engine)))
    store = default_store() if options.store is None else Path(options.store).expanduser()
    read_manifest(store)
    return open_index(store, open_engine(artifact_of(store, options.engine)))


def open_engine(artifact: Path) -> Any:
    """Without comparing the digests of its files, which would take longer than the search: `vlp index` has compared them."""
    from vlp.deploy.runtime.engine import open_artifact

    return open_artifact(artifact, verify=False)


def open_file(path: str) -> None:
    import os
    import subprocess

    if "!" in path and not os.path.lexists(path):
        raise UserError(f"{path}: is in a tar file, and cannot be opened from there")
    if sys.platform == "win32":
        os.startfile(path)
        return
    subprocess.Popen(["open" if sys.platform == "darwin" else "xdg-open", path], start_new_session=True)
