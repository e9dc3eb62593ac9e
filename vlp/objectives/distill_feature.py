"""Feature distillation: each embedding of the student points where its teacher's does.

    L = mean over sides, teachers and rows of 1 − cos( M_t s, t )

with the student's embedding s, the teacher's t, and a learned linear map M_t where the widths of the two joint spaces differ (the
identity where they are equal). Half the squared distance of unit vectors, which CLIP-KD found to work best of all (Yang et al.,
arXiv:2307.12732, §3.2, "feature distillation"). After training the map is not needed.

A teacher is a frozen checkpoint of `teachers={NAME: PATH}` (vlp/models/teacher.py), whose embeddings come with the batch, or
`momentum`, the moving average of the model itself (Caron et al., arXiv:2104.14294, §3.1), which sees the same augmented pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlp.distributed import mean_over_ranks
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.structures import Batch, Features, Loss, TeacherEmbeddings, require
from vlp.system.errors import UserError

MOMENTUM = "momentum"
_FIELDS = {"image": "image", "text": "caption"}
_TOWERS = {"image": "vision", "text": "text"}


class Distillation(Objective):
    """sides: of "image" and "text", those that are compared.  teachers: names; None = all of the run's `teachers`. The loss is the
    mean over them."""

    def __init__(
        self,
        *,
        sides: Sequence[str] = ("image", "text"),
        teachers: Sequence[str] | None = None,
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if not sides or set(sides) - set(_FIELDS) or len(set(sides)) < len(sides):
            raise UserError(f"{type(self).__name__}: sides={list(sides)}: choose image, text or both")
        if teachers is not None and not teachers:
            raise UserError(f"{type(self).__name__}: teachers=[] teaches nothing: give names, or null for all")
        self.sides, self.teachers = tuple(sides), None if teachers is None else tuple(teachers)
        self.needs: tuple[str, ...] = (*(_TOWERS[side] for side in sides), "projection")
        self.uses: tuple[str, ...] = tuple(f"{side}_embed" for side in sides)
        if MOMENTUM in (teachers or ()):
            self.uses += tuple(f"momentum.{side}_embed" for side in sides)
        self.requires: tuple[str, ...] = tuple(_FIELDS[side] for side in sides)
        if self.teachers != (MOMENTUM,):
            self.requires += ("teachers",)

    def checkpoint_teachers(self, available: Sequence[str]) -> list[str]:
        """The names of those that are checkpoints.  available: of the run's `teachers`.  Raises UserError for another name."""
        asked = list(available) if self.teachers is None else [name for name in self.teachers if name != MOMENTUM]
        unknown = [name for name in asked if name not in available]
        if unknown or (self.teachers is None and not available):
            name = unknown[0] if unknown else "NAME"
            raise UserError(
                f"{type(self).__name__} has no teacher{f' {name}' if unknown else ''}: set 'teachers={{{name}: CHECKPOINT}}', or "
                "teachers=[momentum] of the objective with momentum=0.995"
            )
        return asked

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        for name, source in data.sources.items():
            if self.sources is None or name in self.sources:
                self.checkpoint_teachers(list(source.teacher_embeddings))

    def teacher_embeddings(self, batch: Batch, features: Features) -> Mapping[str, TeacherEmbeddings]:
        """By name, of those that this objective learns from."""
        found = dict(batch.teachers or {})
        if MOMENTUM in (self.teachers or ()):
            momentum = require(features.momentum)
            found[MOMENTUM] = TeacherEmbeddings(image=momentum.image_embed, text=momentum.text_embed)
        return {name: found[name] for name in (found if self.teachers is None else self.teachers)}


class DistillFeature(Distillation):
    """embed_width: of the student's joint space.  teacher_widths: of each teacher's, by name; both are filled in by the run."""

    def __init__(
        self,
        *,
        sides: Sequence[str] = ("image", "text"),
        teachers: Sequence[str] | None = None,
        embed_width: int = 0,
        teacher_widths: Mapping[str, int] | None = None,
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(sides=sides, teachers=teachers, weight=weight, sources=sources)
        self.maps = nn.ModuleDict()
        for name, width in (teacher_widths or {}).items():
            if width != embed_width and (teachers is None or name in teachers):
                for side in sides:
                    self.maps[f"{name}_{side}"] = nn.Linear(embed_width, width, bias=False)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        losses: list[Tensor] = []
        logs: dict[str, Tensor] = {}
        embeddings = self.teacher_embeddings(batch, features)
        for name, teacher in embeddings.items():
            for side in self.sides:
                student: Tensor = require(getattr(features, f"{side}_embed"))
                cosine = self._cosine(f"{name}_{side}", student, require(getattr(teacher, side)))
                mean = mean_over_ranks(cosine.sum(), len(cosine))
                losses.append(1 - mean)
                several = f"_{name}" if len(embeddings) > 1 else ""
                logs[f"{side}_cosine{several}"] = mean.detach()
        return Loss(value=torch.stack(losses).mean(), logs=logs)

    def _cosine(self, name: str, student: Float[Tensor, "r e"], teacher: Float[Tensor, "r w"]) -> Float[Tensor, " r"]:
        if name in self.maps:
            student = F.normalize(self.maps[name](student), dim=-1)
        if student.shape[1] != teacher.shape[1]:
            raise UserError(
                f"distill_feature: the student's embeddings have {student.shape[1]} numbers and those of {name} "
                f"{teacher.shape[1]}: leave objectives.distill_feature.teacher_widths and embed_width null"
            )
        return (student * teacher.to(student)).sum(1)
