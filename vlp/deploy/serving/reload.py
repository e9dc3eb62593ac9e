"""A new artifact behind the same name, taken in while the old one answers: after SIGHUP, or when the folder is another one.

A folder is another one when its manifest is: by its file number, time and size, which an artifact that is renamed into its
place, or a link that is set to a new folder, changes. Writing into the folder of a loaded artifact is not supported: OpenVINO
maps its weights.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from vlp.deploy.serving.served_model import ServedModel
from vlp.deploy.serving.serving_state import ServingState
from vlp.system.errors import is_user_error

logger = logging.getLogger(__name__)
Mark = tuple[str, int, int, int] | None


class Reloader:
    """load: opens the artifact and its index again; called in a thread.  manifest: the file that is watched."""

    def __init__(self, state: ServingState, load: Callable[[], ServedModel], manifest: Path) -> None:
        self.state, self.load, self.manifest = state, load, manifest
        self._loaded = folder_mark(manifest)
        self._lock = asyncio.Lock()

    async def watch(self, seconds: float = 2.0) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            mark = folder_mark(self.manifest)
            if mark is not None and mark != self._loaded:
                await self.reload()

    async def reload(self) -> None:
        """The old model answers until the new one is warm, and for good where the new one cannot be loaded."""
        async with self._lock:
            self._loaded = folder_mark(self.manifest)  # a damaged one is not tried again and again
            if self.state.draining:
                return
            try:
                model = await asyncio.to_thread(self._load_warm)
            except Exception as error:
                self.state.metrics.reloads.labels("failed").inc()
                defect = None if is_user_error(error) else error
                logger.error("the new artifact is not taken in, the old one answers: %s", error, exc_info=defect)
                return
            self.state.take_in(model)
            self.state.metrics.reloads.labels("done").inc()
            logger.warning("took in %s with fingerprint %s", self.manifest.parent, model.engine.fingerprint[:12])

    def _load_warm(self) -> ServedModel:
        model = self.load()
        try:
            model.warm_up()
        except BaseException:
            model.close()
            raise
        return model


def folder_mark(manifest: Path) -> Mark:
    """None while there is no such file, such as between two renames."""
    try:
        status = manifest.stat()
        return str(manifest.resolve()), status.st_ino, status.st_mtime_ns, status.st_size
    except OSError:
        return None
