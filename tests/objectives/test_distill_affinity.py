"""KL between the teacher's and the student's softmax over the batch: closed forms, scales, and two processes against one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.objectives.taught import assert_two_processes_equal_one, data_with_teachers, make, taught_batch
from tests.towers import toy_model
from vlp.models.features import compute_features
from vlp.models.momentum import MomentumCopy
from vlp.objectives.distill_affinity import DistillAffinity
from vlp.structures import TeacherEmbeddings
from vlp.system.errors import UserError


def test_two_processes_equal_one() -> None:
    assert_two_processes_equal_one("affinity")


def test_closed_form_of_both_directions_and_scales() -> None:
    model, batch = toy_model().double(), taught_batch()
    objective = make("affinity")
    features = compute_features(model, batch, objective.uses)
    logits = model.similarity(features.image_embed, features.text_embed)
    expected = []
    for name, scale in (("same", 20.0), ("wide", 7.0)):
        teacher = batch.teachers[name]
        z = scale * teacher.image @ teacher.text.T
        for student, target in ((logits, z), (logits.T, z.T)):
            p, q = target.softmax(1), student.softmax(1)
            expected.append((p * (p.log() - q.log())).sum(1).mean())
    torch.testing.assert_close(objective(model, batch, features).value, torch.stack(expected).mean())


def test_no_loss_where_the_student_sees_what_the_teacher_sees() -> None:
    model, batch = toy_model().double(), taught_batch()
    features = compute_features(model, batch, DistillAffinity().uses)
    own = TeacherEmbeddings(image=features.image_embed.detach(), text=features.text_embed.detach())
    objective = DistillAffinity()
    objective.prepare(model, None, data_with_teachers(itself=float(model.projection.scale())))
    loss = objective(model, replace(batch, teachers={"itself": own}), features).value
    torch.testing.assert_close(loss, torch.zeros((), dtype=torch.float64), atol=1e-7, rtol=0)


def test_the_momentum_copy_as_teacher_has_the_scale_of_the_model() -> None:
    model, batch = toy_model().double(), replace(taught_batch(), teachers=None)
    objective = DistillAffinity(teachers=["momentum"])
    features = compute_features(model, batch, objective.uses, momentum=MomentumCopy(model, {}))
    loss = objective(model, batch, features).value  # the copy is still equal to the model
    torch.testing.assert_close(loss, torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_teacher_without_temperature_needs_one_to_be_given() -> None:
    with pytest.raises(UserError, match=r"teachers.plain has no temperature.*teacher_scale=50"):
        DistillAffinity().prepare(toy_model(), None, data_with_teachers(plain=None))
    with pytest.raises(UserError, match="give numbers above 0"):
        DistillAffinity(teacher_scale=-1.0)
    assert DistillAffinity.in_batch
