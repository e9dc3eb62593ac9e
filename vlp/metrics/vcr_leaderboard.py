"""The leaderboard's file of visual commonsense reasoning (visualcommonsense.com): one line a question, 21 columns.

`annot_id`, the probabilities of the four answers, and of the four rationales given each of the four answers. The rationales show
which answer is right, so these are five passes of a model, none of which knows the label. The file is sent by e-mail; a model may
be sent once a week.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from vlp import distributed
from vlp.system.atomic import atomic_write_text
from vlp.system.errors import UserError

CHOICES = 4
COLUMNS = (
    "annot_id",
    *(f"answer_{answer}" for answer in range(CHOICES)),
    *(f"rationale_conditioned_on_a{answer}_{reason}" for answer in range(CHOICES) for reason in range(CHOICES)),
)


def check_leaderboard_file(path: Path) -> Path:
    if path.suffix.lower() != ".csv":
        raise UserError(f"tasks.vcr.results_file={path}: the leaderboard takes a CSV; end its name with .csv")
    return path


def leaderboard_row(annotation_id: str, answers: Sequence[float], rationales: Sequence[Sequence[float]]) -> list[str]:
    """A line of COLUMNS.  rationales: of each answer, the probabilities given it.  Raises UserError unless they are 4 and 4 × 4."""
    if len(answers) != CHOICES or [len(row) for row in rationales] != [CHOICES] * CHOICES:
        raise UserError(
            f"{annotation_id}: the leaderboard's file has {CHOICES} answers and {CHOICES} rationales for a question, and this "
            f"has {len(answers)} and {len(rationales[0])}"
        )
    return [annotation_id, *(repr(value) for value in [*answers, *(value for row in rationales for value in row)])]


def leaderboard_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    for row in (COLUMNS, *rows):
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerow(row)
        lines.append(stream.getvalue())
    return lines


def write_leaderboard(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """By rank 0, appearing when it is complete."""
    if distributed.rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, leaderboard_lines(rows))
