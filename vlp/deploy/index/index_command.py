"""`vlp index FOLDER…`: makes photos searchable, or brings their index up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vlp.system.errors import UserError

MAX_LISTED = 20  # files with their reasons; --errors lists all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Run it again at any time: only what is new or has changed is read. Photos that were moved keep their embeddings, those "
        "that were deleted disappear. Ctrl-C and even a kill lose at most the last 30 s. Without FOLDER, the folders of earlier "
        "runs are visited. `vlp search` searches; docs/guides/search.md explains shards and other engines."
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="folders of photos, with all that is in them"
    )
    add_store_arguments(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="that read and decode (one for each core, at most 8)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="photos at a time (%(default)s)")
    parser.add_argument("--hidden", action="store_true", help="files and folders whose names begin with a dot, too")
    parser.add_argument(
        "--again", action="store_true", help="replace an index that another model made; all photos are embedded again"
    )
    parser.add_argument(
        "--forget",
        action="store_true",
        help="remove the photos of a folder that is empty now (they are kept otherwise)",
    )
    lists = parser.add_mutually_exclusive_group()
    lists.add_argument(
        "--errors", action="store_true", help="only list the files that cannot be searched, with the reasons"
    )
    lists.add_argument(
        "--copies", action="store_true", help="only list photos that are copies or near copies of each other"
    )
    shards = parser.add_argument_group("many photos, many machines")
    shards.add_argument(
        "--shards",
        action="extend",
        nargs="+",
        metavar="TAR",
        help="embed shards such as 's3://bucket/{00000..00999}.tar', one file of each",
    )
    shards.add_argument("--part", metavar="I/N", help="of the shards: the I-th of N parts, as 3/8 (all)")
    shards.add_argument("--out", type=Path, metavar="DIR", help="folder of the embeddings of --shards")
    shards.add_argument(
        "--parts", type=Path, metavar="DIR", help="take in what --shards has written there, instead of folders"
    )
    shards.add_argument(
        "--copy-to", metavar="ENGINE", help="copy the index (or --parts) to qdrant:URL, qdrant:DIR or lancedb:DIR"
    )


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine", type=Path, metavar="ARTIFACT", help="folder of `vlp export` (the one that made the index)"
    )
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="the index ($VLP_INDEX, else ~/.local/share/vlp/index); may be in qdrant: or lancedb:",
    )


def run(options: argparse.Namespace) -> None:
    check_options(options)
    store = store_folder(options)
    if options.errors:
        list_errors(store)
    elif options.copies:
        list_copies(store)
    elif options.shards:
        embed_shards(options)
    elif options.copy_to:
        copy_to_engine(options, store)
    elif options.parts:
        index_parts(options, store)
    else:
        index_folders(options, store)


def check_options(options: argparse.Namespace) -> None:
    """Raises UserError."""
    for name in ("threads", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} expects a number above 0, got {value}")
    sources = {"FOLDER": options.folders, "--shards": options.shards, "--parts": options.parts}
    given = [name for name, value in sources.items() if value]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are different sources: give one of them")
    if bool(options.shards) != bool(options.out):
        raise UserError("--shards TAR… and --out DIR belong together: DIR gets one file of embeddings for each shard")
    if options.part and not options.shards:
        raise UserError("--part I/N chooses among --shards, which are not given")
    if options.copy_to and (options.folders or options.shards):
        raise UserError("--copy-to copies an index, or --parts: index the photos first, then copy")


def store_folder(options: argparse.Namespace) -> Path:
    from vlp.deploy.index.locations import default_store
    from vlp.deploy.index.remote import is_remote

    if options.store is None:
        return default_store()
    if is_remote(options.store):
        raise UserError(
            f"--store {options.store}: photos are indexed into a folder, then copied with --copy-to {options.store}"
        )
    return Path(options.store).expanduser()


def index_folders(options: argparse.Namespace, store: Path) -> None:
    from vlp.deploy.index.build import index_photos
    from vlp.deploy.index.crawl import check_roots
    from vlp.deploy.index.writer import open_writer

    roots = check_roots(options.folders or known_folders(store))
    engine, manifest = open_engine(store, options)
    with open_writer(store, manifest, again=options.again) as writer:
        if options.again:  # with all folders of the index that this one replaces
            roots = check_roots([*map(Path, roots), *(Path(path) for path in writer.roots() if Path(path).is_dir())])
        try:
            report = index_photos(
                writer, engine, roots, threads=options.threads, batch_size=options.batch_size, hidden=options.hidden,
                forget=options.forget,
            )  # fmt: skip
        except KeyboardInterrupt:
            print(f"stopped; what was embedded is kept in {store}, and the same command continues", file=sys.stderr)
            raise
        count = writer.count
    print_report(report)
    print(f"{report}; {count:,} photos in {store}")


def known_folders(store: Path) -> list[Path]:
    """Of earlier runs, but those that are not there now, which are named on stderr.  Raises UserError where none is left."""
    from vlp.deploy.index.store import MANIFEST, Store

    if not (store / MANIFEST).is_file():
        raise UserError("which photos? vlp index FOLDER --engine ARTIFACT")
    reader = Store(store)
    known = [Path(path) for path in reader.roots()]
    reader.close()
    for folder in known:
        if not folder.is_dir():
            print(f"{folder}: not there now; its photos stay in the index", file=sys.stderr)
    present = [folder for folder in known if folder.is_dir()]
    if not present:
        raise UserError(f"{store}: none of its folders is there; name the folder of the photos")
    return present


def index_parts(options: argparse.Namespace, store: Path) -> None:
    from vlp.deploy.index.parts import check_parts, take_parts
    from vlp.deploy.index.writer import open_writer

    with open_writer(store, check_parts(options.parts), again=options.again) as writer:
        count = take_parts(writer, options.parts)
    print(f"{count:,} photos of {options.parts} are in {store}")


def open_engine(store: Path, options: argparse.Namespace) -> tuple[Any, Any]:
    """The engine and the manifest that its index has.  Raises UserError where the model has no embeddings."""
    from vlp.deploy.index.locations import artifact_of
    from vlp.deploy.index.store import StoreManifest
    from vlp.deploy.runtime.engine import open_artifact

    artifact = artifact_of(store, options.engine)
    engine = open_artifact(artifact)
    if engine.width is None or "embed_images" not in engine.verbs:
        raise UserError(f"{artifact}: its model embeds no images, so photos cannot be searched with it")
    return engine, StoreManifest(fingerprint=engine.fingerprint, width=engine.width, artifact=str(artifact.resolve()))


def print_report(report: Any) -> None:
    """What needs attention, on stderr."""
    from vlp.deploy.index.photo_files import NO_PHOTO
    from vlp.system.units import printable

    damaged = [(path, reason) for path, reason in report.failed if reason != NO_PHOTO]
    for path, reason in [*damaged[:MAX_LISTED], *report.unreadable[:MAX_LISTED]]:
        print(f"{printable(path)}: {printable(reason)}", file=sys.stderr)
    left = max(0, len(damaged) - MAX_LISTED) + max(0, len(report.unreadable) - MAX_LISTED)
    if left:
        print(f"… and {left:,} more; `vlp index --errors` lists the files", file=sys.stderr)
    if report.kept:
        print(
            f"{report.kept:,} photos are kept though their folder is empty now: connect the drive, or remove them with --forget",
            file=sys.stderr,
        )


def list_errors(store: Path) -> None:
    from vlp.deploy.index.store import Store
    from vlp.system.units import printable

    for path, reason in Store(store).errors():
        print(f"{printable(path)}: {reason}")


def list_copies(store: Path) -> None:
    from vlp.deploy.index.near_copies import list_copy_groups
    from vlp.deploy.index.store import Store
    from vlp.system.units import printable

    groups = list_copy_groups(Store(store))
    for group in groups:
        print("\n".join(map(printable, group)), end="\n\n")
    print(f"{sum(map(len, groups)) - len(groups):,} photos are copies of {len(groups):,} others", file=sys.stderr)


def embed_shards(options: argparse.Namespace) -> None:
    from vlp.deploy.index.locations import artifact_of
    from vlp.deploy.index.parts import choose_part, embed_shard, prepare_parts
    from vlp.deploy.runtime.engine import open_artifact
    from vlp.system.progress import Progress

    shards = choose_part(options.shards, options.part)
    artifact = artifact_of(options.out, options.engine)
    engine = open_artifact(artifact)
    prepare_parts(options.out, engine, artifact=str(artifact.resolve()))
    photos = failed = 0
    with Progress("shards") as progress:
        for done, shard in enumerate(shards, 1):
            written = embed_shard(shard, engine, options.out, batch_size=options.batch_size, threads=options.threads)
            photos, failed = photos + written.photos, failed + written.failed
            progress.update("embedding", done, len(shards))
    print(f"{len(shards):,} shards, {photos:,} photos, {failed:,} not readable; {options.out}")


def copy_to_engine(options: argparse.Namespace, store: Path) -> None:
    from vlp.deploy.index.parts import read_parts
    from vlp.deploy.index.photo_rows import store_batches
    from vlp.deploy.index.remote import connect_remote, copy_rows
    from vlp.deploy.index.store import Store, read_manifest

    manifest = read_manifest(options.parts or store)
    batches = read_parts(options.parts) if options.parts else store_batches(Store(store))
    collection = connect_remote(options.copy_to, manifest, create=True, replace=not options.parts)
    count = copy_rows(collection, batches)
    print(f"{count:,} photos copied to {options.copy_to}")
