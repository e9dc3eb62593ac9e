from __future__ import annotations

import pytest

from vlp.data.issues import Faults
from vlp.datasets.common.class_names import clean_label, report_equal_names


@pytest.mark.parametrize(
    ("label", "expected"),
    [(" dog\t", "dog"), ("polar  bear", "polar bear"), ("cafe\u0301", "caf\u00e9"), (7, "7"), (" \n", "")],
)
def test_labels_are_compared_as_they_look(label: object, expected: str) -> None:
    assert clean_label(label) == expected


def test_names_that_differ_in_case_alone_are_reported_together() -> None:
    faults = Faults(collect=True)
    report_equal_names(["crane", "dog", "Crane", "crane"], location="root", faults=faults)
    report_equal_names(["crane", "dog"], location="root", faults=faults)
    (issue,) = faults.issues.values()
    assert (issue.count, issue.fatal) == (1, False)
    assert "'crane' and 'Crane' and 'crane'" in issue.examples[0]
