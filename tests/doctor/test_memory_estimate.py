"""The estimate of memory against the peak of a real step, both told by the doctor.

The numbers of a step follow the allocator, so they are compared with a wide tolerance: the peak lies between half of the
estimate and 1.6 times of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

Visit = Callable[..., tuple[int, dict[str, Any]]]


@pytest.mark.slow
@pytest.mark.parametrize("width", ["16", "64"])
def test_the_estimate_is_near_the_peak_of_a_real_step(visit: Visit, width: str) -> None:
    size = ("data.images.train=384", "data.batch_size=96", f"model.vision.channels={width}", "model.text.width=64")
    code, found = visit(*size)
    assert code == 0
    off = re.search(r"(\d+)% (more|less) than estimated", found["memory.step"]["what"])
    assert off is not None
    ratio = 1 + int(off[1]) / 100 * (1 if off[2] == "more" else -1)
    assert 0.5 < ratio < 1.6, found["memory.step"]["what"] + found["memory.estimate"]["what"]
