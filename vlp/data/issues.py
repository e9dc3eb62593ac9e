"""What is wrong with data: told at once in a run, collected with counts and examples by `vlp data check`.

A reader says what it found and what follows from it. `error`: the data cannot be used as they are, so a run ends with
the sentence. `dropped`: a record is left out, so a run goes on with a warning. `each()` around the work on one record
lets a check go on with the next one.

    for number, record in enumerate(listed):
        with self.faults.each():
            found.append(self._sample(record, place=f"{path}: [{number}]"))
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

from vlp.system.errors import UserError

Item = TypeVar("Item")
EXAMPLES = 5  # of a kind are kept


def first_five(things: Iterable[object]) -> str:
    things = list(things)
    return ", ".join(map(str, things[:EXAMPLES])) + (", …" if len(things) > EXAMPLES else "")


class DataError(UserError):
    """One sentence with the place and the fix.  kind: the same few words for all faults of its kind ("duplicate id"); without a
    message, the one text given is the sentence, as for every UserError."""

    def __init__(self, kind: str, message: str | None = None) -> None:
        super().__init__(kind if message is None else message)
        self.kind = "data error" if message is None else kind

    def __reduce__(self) -> tuple[type[DataError], tuple[str, str]]:
        return type(self), (self.kind, str(self))  # else pickled with the one argument of `args`


@dataclass
class Finding:
    """All faults of a kind.  fatal: a run on these data would end with an error."""

    kind: str
    fatal: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Faults:
    """collect: keep everything and raise nothing (`findings`); else the first error is raised and a drop is a warning."""

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.findings: dict[tuple[str, bool], Finding] = {}

    def error(self, kind: str, message: str, *, count: int = 1) -> None:
        """Raises DataError unless faults are collected."""
        if not self.collect:
            raise DataError(kind, message)
        self.add(kind, message, fatal=True, count=count)

    def dropped(self, kind: str, message: str, *, count: int = 1) -> None:
        """count: how many records the message is about."""
        if not self.collect:
            warnings.warn(message, stacklevel=3)
        else:
            self.add(kind, message, fatal=False, count=count)

    def distinct(self, items: Iterable[Item], key: Callable[[Item], object], *, kind: str, message: str) -> list[Item]:
        """The items, but of those with the same key the first alone; the others are one fault, whose message names their keys."""
        first: dict[object, Item] = {}
        twice = [key(item) for item in items if first.setdefault(key(item), item) is not item]
        if twice:
            self.error(kind, f"{message}: {first_five(dict.fromkeys(twice))}", count=len(twice))
        return list(first.values())

    def each(self) -> Faults:
        """An error inside, on the way of one record, is one fault and leaves that record out, where faults are collected."""
        return self  # and no generator: there may be millions of records

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not self.collect or not isinstance(error, (ValueError, OSError)):
            return False
        self.add(getattr(error, "kind", type(error).__name__), str(error), fatal=True)
        return True

    def add(self, kind: str, message: str, *, fatal: bool, count: int = 1) -> None:
        finding = self.findings.setdefault((kind, fatal), Finding(kind, fatal))
        finding.count += count
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(message)


class LeftOut:
    """Records that a reading leaves out, reported once at its end: a file of millions may have thousands.

    A `with` block around the reading of `path`; whoever leaves a record out says so with `add`.
    """

    def __init__(self, faults: Faults, path: object) -> None:
        self.faults, self.path = faults, path
        self.counts: Counter[str] = Counter()
        self.places: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, place: object) -> None:
        self.counts[kind] += 1
        if len(self.places[kind]) < EXAMPLES:
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
            places = ", ".join(self.places[name]) + (", …" if count > EXAMPLES else "")
            self.faults.dropped(name, f"{self.path}: {name}, {count} left out: {places}", count=count)
