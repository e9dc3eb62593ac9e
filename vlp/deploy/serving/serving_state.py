"""What one app shares between its requests: the model that answers at the moment, limits and figures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from vlp.deploy.serving.limits import ServingLimits
from vlp.deploy.serving.metrics import ServingMetrics
from vlp.deploy.serving.served_model import ServedModel


class ServingState:
    """name: of the model, in answers and requests.  broken: why the model could not be warmed up.  draining: no new work is taken,
    what is there is finished.
    bodies_bytes: of all requests that are read or worked on.  Used in one event loop."""

    def __init__(self, model: ServedModel, *, name: str, limits: ServingLimits, metrics: ServingMetrics) -> None:
        self.name, self.limits, self.metrics = name, limits, metrics
        self.model = model
        self.ready = False
        self.broken: Exception | None = None
        self.draining = False
        self.in_flight = 0
        self.bodies_bytes = 0
        self.decoders = ThreadPoolExecutor(limits.decode_threads, thread_name_prefix="decode")
        metrics.in_flight.set_function(lambda: self.in_flight)
        for kind in ("images", "texts", "verbs", "search", "thumbnails"):
            metrics.queue.labels(kind).set_function(lambda kind=kind: getattr(self.model, kind).waiting)  # type: ignore[misc]
        self._announce()

    @property
    def unready(self) -> str | None:
        """Why no work is taken at the moment; None = it is."""
        if self.draining:
            return "this server is shutting down"
        return None if self.ready else "the model is being warmed up; try again in 1 s"

    @contextmanager
    def lease(self) -> Iterator[ServedModel]:
        """The model that answers one request from its beginning to its end, also when another one is taken in meanwhile."""
        model = self.model
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1
            self._close_unused(model)

    def take_in(self, model: ServedModel) -> None:
        """From now on `model`, already warm, answers new requests; the old one is closed after its last answer."""
        old, self.model = self.model, model
        self._announce()
        self._close_unused(old)

    def close(self) -> None:
        self.model.close()
        self.decoders.shutdown(wait=False, cancel_futures=True)

    def _close_unused(self, model: ServedModel) -> None:
        if model is not self.model and not model.users:
            model.close()

    def _announce(self) -> None:
        manifest = self.model.engine.manifest
        self.metrics.model.clear()
        self.metrics.model.labels(self.model.engine.fingerprint, manifest.precision, manifest.family).set(1)
