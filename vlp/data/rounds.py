"""The number of a round of a dialogue about a photo, as `Sample.sample`."""

from __future__ import annotations

ROUNDS = 100  # a dialogue has fewer


def round_key(image_id: int, round_id: int) -> int:
    """image_id: the photo's number in its data set.  round_id: from 1 to ROUNDS - 1."""
    return ROUNDS * image_id + round_id


def round_numbers(sample: int) -> tuple[int, int]:
    """image_id and round_id of a `round_key`."""
    return divmod(sample, ROUNDS)
