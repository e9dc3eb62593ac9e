from __future__ import annotations

from typing import Any

import pytest

from vlp.deploy.serving.limits import ServingLimits
from vlp.system.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue": 0}, "queue: expects a number above 0"),
        ({"seconds": -1.0}, "seconds: expects"),
        ({"items": 300}, "items=300 is above queue=256"),
        ({"body_bytes": 1 << 30}, "above bodies_bytes"),
    ],
)
def test_limits_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServingLimits(**settings)
