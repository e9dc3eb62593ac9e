"""What a task that scores texts takes of a data set in `prepare`, where a person names the classes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Labels:
    """class_names, segment_names: of things and of pixels. They have no official ids."""

    class_names: tuple[str, ...]
    name: str = "labels"
    category_ids: None = None
    segment_ids: None = None
    segment_things: None = None

    @property
    def segment_names(self) -> tuple[str, ...]:
        return self.class_names
