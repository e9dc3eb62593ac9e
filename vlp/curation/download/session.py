"""Downloads several files at a time into one root folder, which is locked against other processes meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

from vlp.curation.download.catalogue import DOWNLOADS_FOLDER, Catalogue, RemoteFile, total_size, use_mirror
from vlp.curation.download.connection import Connection, RetryPolicy
from vlp.curation.download.download_manifest import DownloadManifest
from vlp.curation.download.download_progress import DownloadProgress, FileProgress
from vlp.curation.download.partial_file import PartialFile
from vlp.curation.download.transfer import DownloadStopped, FileTransfer, checksum_mismatch, file_checksums
from vlp.curation.download.unpack import check_free_space, unpack_archive
from vlp.system.errors import UserError
from vlp.system.locks import exclusive_lock


@dataclass
class DownloadJob:
    """One file to download, and the folders into which it is unpacked.  size: bytes, None where it is unknown."""

    file: RemoteFile
    unpackings: list[RemoteFile]
    size: int | None
    progress: FileProgress


def download_catalogue(
    catalogue: Catalogue,
    root: Path,
    *,
    retry_policy: RetryPolicy,
    only: Sequence[str] = (),
    mirror: str | None = None,
    jobs: int = 4,
    delete_archives: bool = False,
) -> None:
    """Downloads and unpacks what is not complete yet.

    Raises OSError or UserError in one sentence when a file fails, after all others have been tried.
    """
    files = [use_mirror(file, mirror) for part in catalogue.select_parts(only) for file in part.files]
    locked = OSError(f"{root}: another process is downloading into it; wait for it, or end it")
    (root / DOWNLOADS_FOLDER).mkdir(parents=True, exist_ok=True)
    with exclusive_lock(root / DOWNLOADS_FOLDER / "lock", lambda: locked):
        manifest = DownloadManifest(root)
        planned = plan_downloads(files, manifest, retry_policy)
        if planned:
            absent = [job for job in planned if not (root / job.file.path).is_file()]
            downloads = [
                None if job.size is None else max(job.size - PartialFile(root / job.file.path).size, 0)
                for job in absent
            ]
            # photos hardly shrink in an archive; the exact sizes are checked before each archive is unpacked
            unpacked = sum(job.size or 0 for job in absent if job.unpackings)
            check_free_space(root, downloads=sum(size or 0 for size in downloads), unpacked=unpacked)
            with DownloadProgress([job.progress for job in planned]) as progress:
                size = total_size(downloads)
                progress.print_line(f"{catalogue.title}, {catalogue.licence}: {size} to download into {root}")
                DownloadPool(manifest, retry_policy, delete_archives).run(planned, progress, threads=jobs)
    if catalogue.by_hand:
        print(f"by hand: {catalogue.by_hand}", file=sys.stderr)


def plan_downloads(
    files: Sequence[RemoteFile], manifest: DownloadManifest, retry_policy: RetryPolicy
) -> list[DownloadJob]:
    """What is not complete, the largest last, so that training can start early with the small files."""
    jobs: dict[str, DownloadJob] = {}
    with Connection(retry_policy.timeout) as connection:
        for file in files:
            if manifest.is_downloaded(file) if file.unpack is None else manifest.is_unpacked(file):
                continue
            if file.path not in jobs:
                size = file.bytes
                if size is None and not manifest.is_downloaded(file):
                    size = connection.remote_size(file.url)
                progress = FileProgress(file.path.removeprefix(f"{DOWNLOADS_FOLDER}/"), total=size)
                jobs[file.path] = DownloadJob(file, [], size, progress)
            if file.unpack is not None:
                jobs[file.path].unpackings.append(file)
    return sorted(jobs.values(), key=lambda job: job.size or 0)


class DownloadPool:
    """Runs jobs in threads; these are daemons, because a thread may wait for a silent server when the user interrupts."""

    def __init__(self, manifest: DownloadManifest, retry_policy: RetryPolicy, delete_archives: bool) -> None:
        self.manifest, self.retry_policy, self.delete_archives = manifest, retry_policy, delete_archives
        self.stop = threading.Event()

    def run(self, jobs: Sequence[DownloadJob], progress: DownloadProgress, *, threads: int) -> None:
        failures: list[BaseException] = []
        with ThreadPool(threads) as pool:
            results = [pool.apply_async(self._run_job, [job], error_callback=failures.append) for job in jobs]
            try:
                for result in results:
                    while not result.ready():
                        result.wait(0.2)
                        progress.update()
            finally:
                self.stop.set()
                deadline = time.monotonic() + 3
                for result in results:
                    result.wait(max(deadline - time.monotonic(), 0))
        progress.update()
        defects = [error for error in failures if not isinstance(error, (OSError, UserError))]
        if defects or len(failures) == 1:
            raise (defects or failures)[0]
        if failures:
            sentences = "; ".join(dict.fromkeys(map(str, failures)))
            raise OSError(f"{len(failures)} files failed: {sentences}")

    def _run_job(self, job: DownloadJob) -> None:
        if self.stop.is_set():
            return
        try:
            self._download_and_unpack(job)
        except DownloadStopped:
            pass
        except Exception:
            job.progress.stage = "failed"
            raise

    def _download_and_unpack(self, job: DownloadJob) -> None:
        file, target = job.file, self.manifest.root / job.file.path
        if not self.manifest.is_downloaded(file):
            sha256 = self._check_existing_file(job, target)
            if sha256 is None:
                with Connection(self.retry_policy.timeout) as connection:
                    transfer = FileTransfer(file, target, connection, self.retry_policy, job.progress, self.stop)
                    sha256 = transfer.fetch()
            self.manifest.add_file(file, sha256)
        for unpacking in job.unpackings:
            folders = unpack_archive(unpacking, self.manifest.root, progress=job.progress, stop=self.stop)
            self.manifest.add_unpacked(unpacking, folders)
        if self.delete_archives and job.unpackings:
            target.unlink()
        job.progress.stage = "complete"

    def _check_existing_file(self, job: DownloadJob, target: Path) -> str | None:
        """The sha256 of a file that exists and is right, as far as the catalogue can tell; another one is renamed."""
        if not target.is_file():
            return None
        job.progress.stage = "checking"
        checksums = file_checksums(target, job.file, stop=self.stop)
        has_checksum = job.file.sha256 or job.file.md5
        error = checksum_mismatch(job.file, checksums)
        if not has_checksum and job.size is not None and target.stat().st_size != job.size:
            error = f"it has {target.stat().st_size} bytes and not {job.size}"
        if error is None:
            checked = "" if has_checksum else "; the catalogue has no checksum for it"
            job.progress.message = f"the file exists already{checked}"
            return checksums["sha256"]
        backup = target.with_name(f"{target.name}.old")
        target.replace(backup)
        job.progress.message = f"{error}; the old file is now {backup.name}"
        return None
