"""1 − cosine to the teachers' embeddings: closed forms, the map between widths, and two processes against one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.objectives.taught import WIDTHS, assert_two_processes_equal_one, data_with_teachers, make, taught_batch
from tests.towers import toy_model
from vlp.models.features import compute_features
from vlp.objectives.distill_feature import DistillFeature
from vlp.structures import TeacherEmbeddings
from vlp.system.errors import UserError


@pytest.mark.parametrize("name", ["feature", "momentum"])
def test_two_processes_equal_one(name: str) -> None:
    assert_two_processes_equal_one(name)


def test_closed_form_of_each_side() -> None:
    model, batch = toy_model().double(), taught_batch()
    features = compute_features(model, batch, DistillFeature().uses)
    image_loss, text_loss = (
        1 - (student * teacher).sum(1).mean()
        for student, teacher in (
            (features.image_embed, batch.teachers["same"].image), (features.text_embed, batch.teachers["same"].text),
        )
    )  # fmt: skip
    for sides, expected in (
        (["image"], image_loss),
        (["text"], text_loss),
        (["text", "image"], (image_loss + text_loss) / 2),
    ):
        loss = DistillFeature(sides=sides, teachers=["same"])(model, batch, features)
        torch.testing.assert_close(loss.value, expected)
        assert set(loss.logs) == {f"{side}_cosine" for side in sides}


def test_a_student_that_agrees_with_its_teacher_has_no_loss_and_no_map() -> None:
    model, batch = toy_model().double(), taught_batch()
    features = compute_features(model, batch, ("image_embed", "text_embed"))
    own = TeacherEmbeddings(image=features.image_embed.detach(), text=features.text_embed.detach())
    objective = DistillFeature(embed_width=5, teacher_widths={"itself": 5})
    assert not list(objective.parameters())
    loss = objective(model, replace(batch, teachers={"itself": own}), features).value
    torch.testing.assert_close(loss, torch.zeros((), dtype=torch.float64))


def test_a_map_where_widths_differ() -> None:
    model, batch = toy_model().double(), taught_batch()
    objective = make("feature").double()
    assert set(objective.maps) == {"wide_image", "wide_text"}
    features = compute_features(model, batch, objective.uses)
    mapped = F.normalize(features.image_embed @ objective.maps["wide_image"].weight.T, dim=1)
    expected = (mapped * batch.teachers["wide"].image).sum(1).mean()
    loss = objective(model, batch, features)
    torch.testing.assert_close(loss.logs["image_cosine_wide"], expected.detach())
    parts = [1 - loss.logs[f"{side}_cosine_{name}"] for side in ("image", "text") for name in WIDTHS]
    torch.testing.assert_close(loss.value.detach(), torch.stack(parts).mean())


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(UserError, match="choose image, text or both"):
        DistillFeature(sides=["sound"])
    with pytest.raises(UserError, match="teaches nothing"):
        DistillFeature(teachers=[])
    with pytest.raises(UserError, match=r"has no teacher: set 'teachers=\{NAME: CHECKPOINT\}'"):
        DistillFeature().prepare(toy_model(), None, data_with_teachers())
    with pytest.raises(UserError, match="has no teacher large"):
        DistillFeature(teachers=["large"]).prepare(toy_model(), None, data_with_teachers(small=1.0))


def test_runs_only_on_batches_with_teachers_and_its_own_sides() -> None:
    batch = taught_batch()
    assert DistillFeature().applies(batch, "toy")
    assert not DistillFeature().applies(replace(batch, teachers=None), "toy")
    assert not DistillFeature().applies(replace(batch, image=None), "toy")
    assert DistillFeature(sides=["text"]).applies(replace(batch, image=None), "toy")
    assert DistillFeature(teachers=["momentum"]).applies(replace(batch, teachers=None), "toy")
