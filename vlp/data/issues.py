"""Problems of data: a run raises or warns at once; `vlp data check` collects them with counts and examples.

A reader of annotations reports each fault by its severity. `Faults.error`: the data cannot be used, so a run ends with the
message. `Faults.warn`: a record is skipped, so a run continues with a warning. `catch_errors()` around the work on one
record lets a check continue with the next one.

    for number, record in enumerate(records):
        with self.faults.catch_errors():
            samples.append(self._sample(record, location=f"{path}: [{number}]"))
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
MAX_EXAMPLES = 5  # that are kept of each kind


def join_first_five(items: Iterable[object]) -> str:
    items = list(items)
    return ", ".join(map(str, items[:MAX_EXAMPLES])) + (", …" if len(items) > MAX_EXAMPLES else "")


class DataError(UserError):
    """One sentence with the location and the fix.  kind: the same few words for all faults of its kind ("duplicate id"); with
    one argument, this is the sentence, as for every UserError."""

    def __init__(self, kind: str, message: str | None = None) -> None:
        super().__init__(kind if message is None else message)
        self.kind = "data error" if message is None else kind

    def __reduce__(self) -> tuple[type[DataError], tuple[str, str]]:
        return type(self), (self.kind, str(self))  # pickle's default would pass the message alone


@dataclass
class DataIssue:
    """All faults of a kind.  fatal: a run on these data would end with an error."""

    kind: str
    fatal: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Faults:
    """collect: keep all faults in `issues`; else the first error is raised, and a skipped record is a warning."""

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.issues: dict[tuple[str, bool], DataIssue] = {}

    def error(self, kind: str, message: str, *, count: int = 1) -> None:
        """Raises DataError unless faults are collected."""
        if not self.collect:
            raise DataError(kind, message)
        self.add(kind, message, fatal=True, count=count)

    def warn(self, kind: str, message: str, *, count: int = 1) -> None:
        """count: how many records the message is about."""
        if not self.collect:
            warnings.warn(message, stacklevel=3)
        else:
            self.add(kind, message, fatal=False, count=count)

    def drop_duplicates(
        self, items: Iterable[Item], key: Callable[[Item], object], *, kind: str, message: str
    ) -> list[Item]:
        """The first item of each key; the others are one error, whose message lists their keys."""
        first: dict[object, Item] = {}
        repeated = [key(item) for item in items if first.setdefault(key(item), item) is not item]
        if repeated:
            self.error(kind, f"{message}: {join_first_five(dict.fromkeys(repeated))}", count=len(repeated))
        return list(first.values())

    def catch_errors(self) -> Faults:
        """For the work on one record: if faults are collected, an error inside is one of them and skips that record."""
        return self  # no generator, since there may be millions of records

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not self.collect or not isinstance(error, (ValueError, OSError)):
            return False
        self.add(getattr(error, "kind", type(error).__name__), str(error), fatal=True)
        return True

    def add(self, kind: str, message: str, *, fatal: bool, count: int = 1) -> None:
        issue = self.issues.setdefault((kind, fatal), DataIssue(kind, fatal))
        issue.count += count
        if len(issue.examples) < MAX_EXAMPLES:
            issue.examples.append(message)


class SkippedRecords:
    """Skipped records of one file, reported together at the end of a `with` block around the reading of `path`."""

    def __init__(self, faults: Faults, path: object) -> None:
        self.faults, self.path = faults, path
        self.counts: Counter[str] = Counter()
        self.locations: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, location: object) -> None:
        self.counts[kind] += 1
        if len(self.locations[kind]) < MAX_EXAMPLES:
            self.locations[kind].append(str(location).removeprefix(f"{self.path}: "))

    def skip_without_caption(self, location: str, *, training: bool) -> bool:
        """Whether to skip an image without a caption. In the evaluation of a run it is not skipped: DataModule.split
        reports all of them together, if they have no question or class either."""
        if training:
            self.add("image without caption", location)
        elif self.faults.collect:
            message = f"{location}: no caption in evaluation data, which would change the metric"
            self.faults.error("image without caption", message)
        return training or self.faults.collect

    def __enter__(self) -> SkippedRecords:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return  # the error ends the run
        for name, count in self.counts.items():
            locations = ", ".join(self.locations[name]) + (", …" if count > MAX_EXAMPLES else "")
            self.faults.warn(name, f"{self.path}: {name}, {count} left out: {locations}", count=count)
