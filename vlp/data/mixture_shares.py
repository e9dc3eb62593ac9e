"""How a mixture's step is shared out among its sources: by ratios, or by their sizes with a temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vlp.system.errors import UserError


def source_batch_sizes(
    batch_size: int | None, ratios: Mapping[str, int | float] | None, names: list[str]
) -> dict[str, int]:
    """batch_size · ratio / sum of ratios for each source.  Raises UserError unless they are integers above 0."""
    if batch_size is None or ratios is None or set(ratios) != set(names):
        raise UserError(
            f"data.batch_size={batch_size} and data.ratios={ratios} must divide a step among {', '.join(names)}: set both, "
            "with a ratio for each source, or neither"
        )
    exact = {name: batch_size * ratios[name] / sum(ratios.values()) for name in names}
    rounded = {name: round(size) for name, size in exact.items()}
    if any(abs(rounded[name] - exact[name]) > 1e-6 or rounded[name] < 1 for name in names):
        sizes = ", ".join(f"{name} {size:.3g}" for name, size in exact.items())
        raise UserError(
            f"data.batch_size={batch_size} divided by data.ratios must give integers for each source, not {sizes}"
        )
    return rounded


def check_temperature(
    temperature: float, batch_size: int | None, ratios: Mapping[str, int | float] | None, sources: int
) -> None:
    """Raises UserError for a temperature below 1 or NaN, for ratios beside it, and for fewer samples a step than sources."""
    if not temperature >= 1:
        raise UserError(f"data.temperature={temperature}: give 1 (by size) or more, .inf for equal shares")
    if ratios is not None:
        raise UserError("data.temperature and data.ratios both share out a step: set one of them to null")
    if batch_size is None or batch_size < sources:
        raise UserError(
            f"data.temperature needs data.batch_size, the training samples a step of all {sources} sources, at least {sources}"
        )


def sizes_by_temperature(batch_size: int, counts: Mapping[str, int], temperature: float) -> dict[str, int]:
    """Samples a step of each source, one at least, in proportion to its count to the power of 1 / temperature: 1 = by size, ∞ =
    equal (Raffel et al., arXiv:1910.10683, §3.5.2, without a limit of sizes).

    One for each source first; the rest by largest remainders of the proportions, of equal ones the earlier source's. A function of
    the counts alone, so it is the same in every process. Raises UserError for a source without samples.
    """
    empty = [name for name, count in counts.items() if count < 1]
    if empty:
        raise UserError(f"data.sources.{empty[0]} has no training samples, so no share of a step: leave it out (null)")
    logarithms = {name: math.log(count) / temperature for name, count in counts.items()}
    top = max(logarithms.values())  # so that no power overflows
    powers = {name: math.exp(value - top) for name, value in logarithms.items()}
    exact = {name: batch_size * power / sum(powers.values()) for name, power in powers.items()}
    sizes = {name: max(1, math.floor(size)) for name, size in exact.items()}
    order = sorted(exact, key=lambda name: sizes[name] - exact[name])  # the largest remainder first
    while (missing := batch_size - sum(sizes.values())) > 0:
        for name in order[:missing]:
            sizes[name] += 1
    while sum(sizes.values()) > batch_size:  # what the ones that got more than their share took
        largest = max(sizes, key=lambda name: sizes[name] - exact[name] if sizes[name] > 1 else -math.inf)
        sizes[largest] -= 1
    return sizes
