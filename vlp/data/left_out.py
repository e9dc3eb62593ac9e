"""Records that a reading leaves out, told once at its end: a file of millions may have thousands."""

from __future__ import annotations

from collections import Counter, defaultdict
from types import TracebackType

from vlp.data.faults import Faults

SHOWN = 5  # places of each kind


class LeftOut:
    """A `with` block around the reading of `path`; whoever leaves a record out says so with `add`."""

    def __init__(self, faults: Faults, path: object) -> None:
        self.faults, self.path = faults, path
        self.counts: Counter[str] = Counter()
        self.places: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, place: object) -> None:
        self.counts[kind] += 1
        if len(self.places[kind]) < SHOWN:
            self.places[kind].append(str(place).removeprefix(f"{self.path}: "))

    def without_caption(self, place: str, *, training: bool) -> bool:
        """Whether an image without a caption is left out here. In the evaluation of a run it is not:
        DataModule.split tells all of them at once, and knows whether they have something else."""
        if training:
            self.add("image without caption", place)
        elif self.faults.collect:
            message = f"{place}: no caption in evaluation data, which would change the metric"
            self.faults.error("image without caption", message)
        return training or self.faults.collect

    def __enter__(self) -> LeftOut:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return  # what ends the run is told instead
        for name, count in self.counts.items():
            places = ", ".join(self.places[name]) + (", …" if count > SHOWN else "")
            self.faults.dropped(name, f"{self.path}: {name}, {count} left out: {places}", count=count)
