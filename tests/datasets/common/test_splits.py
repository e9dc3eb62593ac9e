from __future__ import annotations

import pytest

from vlp.datasets.common.splits import named_splits
from vlp.system.errors import UserError


def test_a_split_of_another_name_is_an_error_since_nothing_would_read_it() -> None:
    assert named_splits({"train": "a.csv"}, setting="data.table") == {"train": "a.csv", "val": None, "test": None}
    assert named_splits(None, setting="data.table") == {"train": None, "val": None, "test": None}
    with pytest.raises(UserError, match=r"data\.table\.dev: there is no such split; use train, val, test"):
        named_splits({"train": "a.csv", "dev": "b.csv"}, setting="data.table")
