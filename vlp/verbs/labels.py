"""The labels, prompts and thresholds that people give to verbs, checked; and what a task takes of a data set in `prepare`, where a
person names the classes. Torch is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlp.data.inputs import require_list
from vlp.system.errors import UserError


@dataclass(frozen=True)
class Labels:
    """class_names, segment_names: of things and of pixels. They have no official ids.  answer_names: candidate answers."""

    class_names: tuple[str, ...]
    answer_names: tuple[str, ...] | None = None
    name: str = "labels"
    category_ids: None = None
    segment_ids: None = None
    segment_things: None = None

    @property
    def segment_names(self) -> tuple[str, ...]:
        return self.class_names


def asked_labels(labels: Sequence[str] | None, *, known: Sequence[str], setting: str, open_vocabulary: bool) -> Labels:
    """Those that a person asks a head for; None = its own.  setting: with which a head is trained that can be asked for any.
    Raises UserError where this head cannot, and for no label, one string, or a label that comes twice."""
    if labels is None:
        return Labels(tuple(known))
    if not open_vocabulary:
        raise UserError(
            f"labels: this head knows {', '.join(known[:20])}{' …' if len(known) > 20 else ''} and no other names: train one "
            f"with {setting}, or give none"
        )
    if isinstance(labels, str) or not labels or len(set(labels)) < len(labels):
        raise UserError("labels must be a list of at least one name, each once")
    return Labels(tuple(labels))


def check_prompts(labels: Sequence[str], templates: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of classes and the prompts with {} for them; None = "a photo of a {}.".  Raises UserError for a label that comes
    twice, a prompt without {}, and what is no list."""
    prompts = tuple(("a photo of a {}.",) if templates is None else require_list(templates, "templates"))
    if wrong := [prompt for prompt in prompts if "{}" not in prompt]:
        raise UserError(f"templates: {wrong[0]!r} has no {{}} where the label goes")
    if len(set(require_list(labels, "labels"))) < len(labels):
        raise UserError(f"labels: {next(label for label in labels if list(labels).count(label) > 1)!r} comes twice")
    return tuple(labels), prompts


def check_threshold(threshold: float | None) -> None:
    """Raises UserError unless it is a probability."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"threshold={threshold}: give a probability from 0 to 1, or None for the checkpoint's")
