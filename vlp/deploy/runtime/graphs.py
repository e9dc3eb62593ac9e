"""The graphs of an artifact by name: each is verified and loaded when it is first needed, once for all threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vlp.deploy.runtime.manifest import Graph, Manifest, verify_files
from vlp.deploy.runtime.sessions import Run, open_session


class Graphs:
    """threads: of one call; None = all cores.  verify: compare each file with its digest before it is loaded."""

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int | None, verify: bool) -> None:
        self.folder, self.manifest, self.threads, self.verify = folder, manifest, threads, verify
        self._sessions: dict[str, Run] = {}  # by file: two names may be of one
        self._lock = threading.Lock()

    def __contains__(self, name: object) -> bool:
        return name in self.manifest.graphs

    def __getitem__(self, name: str) -> Graph:
        return self.manifest.graphs[name]

    def load(self, name: str) -> Run:
        """Raises UserError, see `verify_files` and `open_session`."""
        graph = self[name]
        if (ready := self._sessions.get(graph.file)) is not None:
            return ready
        with self._lock:
            if graph.file not in self._sessions:
                if self.verify:
                    verify_files(self.folder, self.manifest, (graph.file, *graph.data))
                self._sessions[graph.file] = open_session(
                    self.folder, graph, precision=self.manifest.precision, threads=self.threads
                )
            return self._sessions[graph.file]

    def run(self, name: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """feeds: at least the graph's inputs; those that the graph `memory` makes are computed of `pixels`."""
        graph, known = self[name], dict(feeds)
        if "memory" in self and not known.keys() >= set(graph.inputs):
            known |= self.run("memory", {"pixels": known["pixels"]})
        return self.load(name)({each: np.ascontiguousarray(known[each]) for each in graph.inputs})
