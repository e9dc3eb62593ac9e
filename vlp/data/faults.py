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
from dataclasses import dataclass, field

from vlp.system.errors import UserError

EXAMPLES = 5  # of a kind are kept


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
