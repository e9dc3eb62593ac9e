"""Figures for Prometheus, in a registry of their own: two apps in one process do not share any."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServingMetrics:
    """Paths are the routes' own (`/v1/photos/{row}/thumbnail`), and `other` for what is none: clients cannot add any."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter("vlp_requests", "Requests answered", ["path", "code"], registry=registry)
        self.seconds = Histogram(
            "vlp_request_seconds",
            "From the headers to the end of the answer",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.refused = Counter("vlp_refused", "Requests refused, by code of the error", ["reason"], registry=registry)
        self.batch_size = Histogram("vlp_batch_size", "Items of a batch", ["kind"], buckets=SIZES, registry=registry)
        self.model_seconds = Histogram(
            "vlp_model_seconds", "Of the model, for a batch", ["kind"], buckets=SECONDS, registry=registry
        )
        self.decode_seconds = Histogram(
            "vlp_decode_seconds", "From a photo's bytes to pixels", buckets=SECONDS, registry=registry
        )
        self.queue = Gauge("vlp_queue_items", "Items that wait for the model", ["kind"], registry=registry)
        self.in_flight = Gauge("vlp_requests_in_flight", "Requests being answered", registry=registry)
        self.reloads = Counter("vlp_reloads", "Artifacts taken in while serving", ["result"], registry=registry)
        self.model = Gauge(
            "vlp_model_info", "1 for the artifact that answers", ["sha256", "precision", "family"], registry=registry
        )
        self._answered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def answer(self, path: str, code: int, seconds: float) -> None:
        key = (path, code)
        if key not in self._answered:  # labels() takes longer than the increment
            self._answered[key] = self.requests.labels(path, str(code)), self.seconds.labels(path)
        counter, histogram = self._answered[key]
        counter.inc()
        histogram.observe(seconds)

    def batch_observer(self, kind: str) -> Callable[[int, float], None]:
        sizes, seconds = self.batch_size.labels(kind), self.model_seconds.labels(kind)

        def observe(size: int, duration: float) -> None:
            sizes.observe(size)
            seconds.observe(duration)

        return observe

    def text(self) -> bytes:
        return generate_latest(self.registry)
