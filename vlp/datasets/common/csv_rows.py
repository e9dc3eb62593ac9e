"""The rows of a CSV or TSV file with a header.

A quoted value may go over several lines. A quote that was not meant as one does so too, and takes the rows up to the next
quote with it; so such a value is refused where both its first and its last line would be complete rows without the quote.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import read_text
from vlp.data.issues import DataError, Faults, join_first_five

REMEDY = 'remove it, or write it twice ("") within a quoted value'


def csv_rows(path: Path, faults: Faults, *, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row after "file, line n", where it begins; a row with fewer values than columns lacks the last ones.

    Raises DataError for a header that names a column twice; a malformed line is a fault.
    """
    # not splitlines(): captions may contain characters such as U+2028, at which it splits
    lines = list(io.StringIO(read_text(path, description="the table"), newline=""))
    columns: list[str] = []
    for number, values in _rows_of_lines(lines, path, faults, delimiter):
        location = f"{path}, line {number}"
        if not columns:
            columns = values
            _check_header(columns, location)
        elif len(values) > len(columns):
            faults.error("malformed line", f"{location}: more values than columns; quote values with commas")
        else:
            yield location, dict(zip(columns, values, strict=False))


def _check_header(columns: list[str], location: str) -> None:
    if repeated := [name for name, count in Counter(columns).items() if count > 1 and name]:
        names = join_first_five(map(repr, repeated))
        raise DataError(
            "column named twice", f"{location}: the header names {names} more than once; rename one of them"
        )


def _rows_of_lines(lines: Sequence[str], path: Path, faults: Faults, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its first line, from 1."""
    start, columns = 0, 0
    while start < len(lines):
        first = start
        reader = csv.reader((lines[i] for i in range(first, len(lines))), strict=True, delimiter=delimiter)
        try:
            for values in reader:
                end = first + reader.line_num
                several = end > start + 1
                if several and all(
                    _count_values(lines[i], delimiter) == (columns or len(values)) for i in (start, end - 1)
                ):
                    raise csv.Error(f"the quote that opens here closes on line {end}, after rows of the table")
                columns = columns or len(values)
                if values:
                    yield start + 1, values
                start = end
        except csv.Error as error:
            message = f"{path}, line {start + 1}: {_explain(error, start + 1, first + reader.line_num)}"
            if not columns:  # of the header: what follows cannot be read
                raise DataError("malformed line", message) from error
            faults.error("malformed line", message)
            start += 1  # what the quote has taken with it may be rows


def _count_values(line: str, delimiter: str) -> int:
    """Of a line without its neighbours, in which a quote without a partner is a letter."""
    edge = re.escape(delimiter)
    return re.sub(rf'(^|{edge})"(?:[^"]|"")*"(?={edge}|\s*$)', r"\1", line).count(delimiter) + 1


def _explain(error: csv.Error, first: int, last: int) -> str:
    """first, last: the lines that the reader has taken for one row."""
    text = str(error)
    if "end of data" in text:
        text = "the quote that opens here is never closed"
    elif "expected after" in text:
        text = (
            f"the quote that opens here {'is' if first == last else f'closes on line {last} and is'} followed by text"
        )
    elif "field limit" in text:
        text = f"the value here is longer than {csv.field_size_limit()} letters, as if a quote is not closed"
    return f"{text}; {REMEDY}"
