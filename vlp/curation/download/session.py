"""`vlp data download`: several files at a time into one root, which belongs to one process meanwhile."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlp.curation.download.catalogue import DOWNLOADS, Catalogue, RemoteFile, mirrored
from vlp.curation.download.connection import Connection, Patience
from vlp.curation.download.download_manifest import Manifest
from vlp.curation.download.download_progress import Report, Tally
from vlp.curation.download.partial_file import Partial
from vlp.curation.download.transfer import Stopped, Transfer, checksums, mismatch
from vlp.curation.download.unpack import check_space, unpack
from vlp.system.errors import UserError
from vlp.system.locks import exclusive_lock
from vlp.system.units import readable_bytes


@dataclass
class Work:
    """One file to fetch, and the ways in which it is unpacked.  size: bytes, None where nobody says."""

    file: RemoteFile
    unpackings: list[RemoteFile]
    size: int | None
    tally: Tally


def download(
    catalogue: Catalogue,
    root: Path,
    *,
    only: Sequence[str] = (),
    mirror: str | None = None,
    jobs: int = 4,
    patience: Patience | None = None,
    delete_archives: bool = False,
) -> None:
    """Fetches and unpacks what is not complete yet.

    OSError or UserError in one sentence when some file fails, after all others had their chance.
    """
    patience = patience or Patience()
    chosen = [mirrored(file, mirror) for part in catalogue.choose(only) for file in part.files]
    taken = OSError(f"{root}: another process is downloading into it; wait for it, or end it")
    (root / DOWNLOADS).mkdir(parents=True, exist_ok=True)
    with exclusive_lock(root / DOWNLOADS / "lock", lambda: taken):
        manifest = Manifest(root)
        works = plan(chosen, manifest, patience)
        if works:
            absent = [work for work in works if not (root / work.file.path).is_file()]
            downloads = sum(max((work.size or 0) - Partial(root / work.file.path).size, 0) for work in absent)
            # photos hardly shrink in an archive; each archive is asked exactly before it is unpacked
            check_space(root, downloads=downloads, unpacked=sum(work.size or 0 for work in absent if work.unpackings))
            with Report([work.tally for work in works]) as report:
                unknown = sum(work.size is None for work in absent)
                more = f" and {unknown} file{'s' * (unknown > 1)} of unknown size" if unknown else ""
                report.say(
                    f"{catalogue.title}, {catalogue.licence}: {readable_bytes(downloads)}{more} to download into {root}"
                )
                Crew(works, manifest, patience, delete_archives).run(report, jobs)
    if catalogue.by_hand:
        print(f"by hand: {catalogue.by_hand}", file=sys.stderr)


def plan(chosen: Sequence[RemoteFile], manifest: Manifest, patience: Patience) -> list[Work]:
    """What is not complete, the largest last, so that a reader can begin early."""
    works: dict[str, Work] = {}
    with Connection(patience.timeout) as connection:
        for file in chosen:
            needed = not manifest.has_file(file) if file.unpack is None else not manifest.has_unpacked(file)
            if needed and file.path not in works:
                size = file.bytes
                if size is None and not manifest.has_file(file):
                    size = connection.size(file.url)
                works[file.path] = Work(file, [], size, Tally(file.path.removeprefix(f"{DOWNLOADS}/"), total=size))
            if needed and file.unpack is not None:
                works[file.path].unpackings.append(file)
    return sorted(works.values(), key=lambda work: work.size or 0)


class Crew:
    """Threads that take one file after the other."""

    def __init__(self, works: Sequence[Work], manifest: Manifest, patience: Patience, delete_archives: bool) -> None:
        self.manifest, self.patience, self.delete_archives = manifest, patience, delete_archives
        self.stop = threading.Event()
        self.waiting: queue.SimpleQueue[Work] = queue.SimpleQueue()
        for work in works:
            self.waiting.put(work)
        self.failures: list[Exception] = []

    def run(self, report: Report, jobs: int) -> None:
        # daemons, because a thread may wait for a silent server when the user has had enough
        threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                threads[0].join(0.2) if threads[0].is_alive() else threads.pop(0)
                report.update()
        finally:
            self.stop.set()
            latest = time.monotonic() + 3
            for thread in threads:
                thread.join(max(latest - time.monotonic(), 0))
        report.update()
        defects = [error for error in self.failures if not isinstance(error, (OSError, UserError))]
        if defects or len(self.failures) == 1:
            raise (defects or self.failures)[0]
        if self.failures:
            sentences = "; ".join(dict.fromkeys(map(str, self.failures)))
            raise OSError(f"{len(self.failures)} files failed: {sentences}")

    def _serve(self) -> None:
        with Connection(self.patience.timeout) as connection:
            while not self.stop.is_set():
                try:
                    work = self.waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._complete(work, connection)
                except Stopped:
                    return
                except Exception as error:  # the others go on; a defect keeps its traceback when it is raised again
                    work.tally.stage = "failed"
                    self.failures.append(error)

    def _complete(self, work: Work, connection: Connection) -> None:
        file, target = work.file, self.manifest.root / work.file.path
        if not self.manifest.has_file(file):
            sha256 = (
                self._adopt(work, target)
                or Transfer(
                    file, target, connection=connection, patience=self.patience, tally=work.tally, stop=self.stop
                ).run()
            )
            self.manifest.add_file(file, sha256)
        for unpacking in work.unpackings:
            folders = unpack(unpacking, self.manifest.root, tally=work.tally, stop=self.stop)
            self.manifest.add_unpacked(unpacking, folders)
        if self.delete_archives and work.unpackings:
            target.unlink()
        work.tally.stage = "complete"

    def _adopt(self, work: Work, target: Path) -> str | None:
        """The sha256 of a file that is there already and is the right one, as far as anyone can know."""
        if not target.is_file():
            return None
        work.tally.stage = "checking"
        found = checksums(target, work.file, stop=self.stop)
        known = work.file.sha256 or work.file.md5
        wrong = mismatch(work.file, found)
        if known is None and work.size is not None and target.stat().st_size != work.size:
            wrong = f"it has {target.stat().st_size} bytes and not {work.size}"
        if wrong is None:
            work.tally.note = (
                "it was there already" if known else "it was there already; nothing is known to check it by"
            )
            return found["sha256"]
        aside = target.with_name(f"{target.name}.old")
        target.replace(aside)
        work.tally.note = f"{wrong}; what was there is now {aside.name}"
        return None
