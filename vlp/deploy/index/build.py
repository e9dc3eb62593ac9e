"""From folders of photos to an index: threads read and decode, the engine embeds in batches, and every 30 s is committed.

A file is opened only if it is new, or its size or modification time is another than before, and decoded only if no file of its
content is known. What is no photo, or is damaged, is recorded with the reason and not tried again until it changes.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlp.data.images import ImageError, read_bytes, reraise_as_image_error
from vlp.deploy.index.crawl import Crawl, FoundFile, is_below
from vlp.deploy.index.engine_surface import EmbeddingEngine
from vlp.deploy.index.near_copies import picture_hashes
from vlp.deploy.index.photo_files import HEAD_BYTES, NO_PHOTO, is_member, why_no_photo
from vlp.deploy.index.read_photo import ReadPicture, read_picture
from vlp.deploy.index.writer import StoreWriter
from vlp.system.errors import UserError
from vlp.system.progress import Progress

COMMIT_S = 30.0
RECENT_NS = (
    2_000_000_000  # a file that was written so short a time before it was read may have been written again since
)
FIRST_FAILURES = 20  # unknown errors in a row, and no photo read: the engine is at fault, not the photos


@dataclass
class IndexReport:
    """Counts of files. copies: new files of a content that is known.  failed: path and reason of those that were tried now and
    cannot be searched.  unreadable: folders and links whose photos are kept as they were.  kept: photos of folders that are
    empty now, as those of a drive that is not connected."""

    added: int = 0
    changed: int = 0
    moved: int = 0
    copies: int = 0
    removed: int = 0
    unchanged: int = 0
    kept: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        names = ("added", "changed", "moved", "copies", "removed", "unchanged")
        counts = [f"{getattr(self, name):,} {name}" for name in names if getattr(self, name)]
        other = sum(reason == NO_PHOTO for _, reason in self.failed)
        counts += [f"{len(self.failed) - other:,} not readable"] if len(self.failed) > other else []
        counts += [f"{other:,} other files"] if other else []
        return ", ".join(counts) or "no photos"


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """A file as a thread read it, at the time `checked` in ns.  denied: the machine did not let it be read (permissions, a broken
    disk), which says nothing of the photo."""

    file: FoundFile
    checked: int
    picture: ReadPicture
    denied: bool = False


def index_photos(
    writer: StoreWriter,
    engine: EmbeddingEngine,
    roots: Sequence[str],
    *,
    threads: int | None = None,
    batch_size: int = 32,
    commit_every: float = COMMIT_S,
    hidden: bool = False,
    forget: bool = False,
    show: bool = True,
) -> IndexReport:
    """roots: from `check_roots`.  threads: that read and decode.  forget: removes the photos of a folder that is empty now.

    However it ends (an exception, Ctrl-C), what was embedded until then is committed.
    """
    report = IndexReport()
    writer.add_roots(roots)
    crawl = Crawl(roots, excluded=[os.fspath(writer.folder)], hidden=hidden)
    with Progress("photos", show=show) as progress:
        pending, seen = _changed_files(writer, crawl, report, progress)
        report.unreadable = list(crawl.unreadable)
        build = _Build(writer, engine, report, batch_size=batch_size, commit_every=commit_every)
        try:
            for done, photo in enumerate(_read_ahead(writer, engine, pending, threads, batch_size), 1):
                build.take(photo)
                progress.update("indexing", done, len(pending))
            build.embed()
            _remove_missing(writer, crawl, seen | build.seen, report, forget=forget)
        finally:
            with suppress(Exception):  # the engine may be what failed
                build.embed()
            writer.commit()
    return report


def _changed_files(
    writer: StoreWriter, crawl: Crawl, report: IndexReport, progress: Progress
) -> tuple[list[FoundFile], set[int]]:
    """What has to be read, and the ids of what need not be."""
    pending, seen = list[FoundFile](), set[int]()
    for number, file in enumerate(crawl, 1):
        known = writer.file_state(file.path)
        same = known is not None and (known.size, known.changed) == (file.size, file.changed)
        if known is not None and same and file.changed < known.checked - RECENT_NS:
            seen.add(known.id)
            report.unchanged += known.row is not None
        else:
            pending.append(file)
        progress.update("looking for photos", number)
    return pending, seen


def _read_ahead(
    writer: StoreWriter, engine: EmbeddingEngine, files: Sequence[FoundFile], threads: int | None, batch_size: int
) -> Iterator[ReadFile]:
    """In order of the files; at most two batches of pixels wait at a time."""
    threads = threads or min(8, os.cpu_count() or 1)
    waiting: deque[Future[ReadFile]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="photo") as pool:
        try:
            for file in files:
                waiting.append(pool.submit(read_file, writer, engine, file))
                if len(waiting) > 2 * batch_size + threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read_file(writer: StoreWriter, engine: EmbeddingEngine, file: FoundFile) -> ReadFile:
    """In a thread; every problem of the file is in the result."""
    checked = time.time_ns()
    try:
        with reraise_as_image_error(file.path):
            with open(file.path, "rb") as stream:
                status = os.fstat(stream.fileno())
                reason = why_no_photo(file.path, stream.read(HEAD_BYTES))
            file = FoundFile(file.path, status.st_size, status.st_mtime_ns)
        if reason is not None:  # and a film of gigabytes is not read to the end
            return ReadFile(file=file, checked=checked, picture=ReadPicture(error=reason))
        data = read_bytes(file.path)
    except ImageError as error:
        denied = isinstance(error.__cause__, OSError) and error.__cause__.errno is not None
        return ReadFile(file=file, checked=checked, picture=ReadPicture(error=error.reason), denied=denied)
    picture = read_picture(engine, file.path, data, is_known=lambda digest: writer.row_of(digest) is not None)
    return ReadFile(file=file, checked=checked, picture=picture)


class _Build:
    """Takes the photos in order, embeds them in batches, and keeps count."""

    def __init__(
        self, writer: StoreWriter, engine: EmbeddingEngine, report: IndexReport, *, batch_size: int, commit_every: float
    ) -> None:
        self.writer, self.engine, self.report = writer, engine, report
        self.batch_size, self.commit_every = batch_size, commit_every
        self.seen: set[int] = set()
        self._batch: list[ReadFile] = []
        self._committed = time.monotonic()
        self._any_read, self._unknown = False, 0

    def take(self, photo: ReadFile) -> None:
        if photo.picture.unknown is not None and not self._any_read:
            self._unknown += 1
            if self._unknown == FIRST_FAILURES:
                raise photo.picture.unknown
        if photo.picture.pixels is not None:
            self._any_read = True
            self._batch.append(photo)
            if len(self._batch) >= self.batch_size:
                self.embed()
        else:
            self._record(photo, None if photo.picture.digest is None else self.writer.row_of(photo.picture.digest))
        if time.monotonic() - self._committed >= self.commit_every:
            self.writer.commit()
            self._committed = time.monotonic()

    def embed(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        pixels = np.stack([photo.picture.pixels for photo in batch])  # type: ignore[misc]
        vectors = self.engine.embed_pixels(pixels)
        if not np.isfinite(vectors).all():
            wrong = batch[int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])].file.path
            raise UserError(f"{wrong}: the model's embedding has numbers that are not finite; export it again")
        for photo, vector, picture_hash in zip(batch, vectors, picture_hashes(pixels), strict=True):
            assert photo.picture.digest is not None
            row = self.writer.row_of(photo.picture.digest)  # a copy in the same batch has made it
            is_new = row is None
            self._record(
                photo,
                self.writer.append(photo.picture.digest, vector, picture_hash) if row is None else row,
                new=is_new,
            )

    def _record(self, photo: ReadFile, row: int | None, *, new: bool = False) -> None:
        path, report = photo.file.path, self.report
        before = self.writer.file_state(path)
        if photo.denied:
            report.unreadable.append((path, str(photo.picture.error)))
            self.seen |= {before.id} if before is not None else set()
            return  # what is known of it stays, and it is tried each time
        if photo.picture.error is not None:
            if before is None or (before.error, before.size, before.changed) != (
                photo.picture.error,
                photo.file.size,
                photo.file.changed,
            ):
                report.failed.append((path, photo.picture.error))  # else it was listed before
        elif before is not None and before.row == row:
            report.unchanged += 1  # touched, or rewritten with the same content
        elif before is not None and before.row is not None:
            report.changed += 1
        elif new:
            report.added += 1
        elif photo.picture.digest is not None and (origin := self._moved_from(photo.picture.digest)) is not None:
            self.writer.move(origin, path)
            report.moved += 1
        else:
            report.copies += 1
        self.writer.put(
            path, size=photo.file.size, changed=photo.file.changed, checked=photo.checked, digest=photo.picture.digest, row=row,
            taken=photo.picture.taken, error=photo.picture.error,
        )  # fmt: skip
        state: Any = self.writer.file_state(path)
        self.seen.add(state.id)

    def _moved_from(self, digest: bytes) -> int | None:
        """The id of a photo with this content whose file is gone."""
        return next((id for id, path in self.writer.paths_of(digest) if not os.path.lexists(path)), None)


def _remove_missing(writer: StoreWriter, crawl: Crawl, seen: set[int], report: IndexReport, *, forget: bool) -> None:
    """Removes what was not found again, but for what lies where the crawl could not read."""
    blocked = [path for path, _ in crawl.unreadable]
    for root in crawl.roots:
        known = writer.paths_below(root)
        known = [(id, path) for id, path in known if not is_member(path)]  # of shards, which no crawl visits
        missing = [(id, path) for id, path in known if id not in seen]
        missing = [(id, path) for id, path in missing if not any(is_below(path, folder) for folder in blocked)]
        if known and len(missing) == len(known) and not forget:
            report.kept += len(missing)
            continue
        writer.remove(id for id, _ in missing)
        report.removed += len(missing)
