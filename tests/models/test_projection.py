"""The projections' own claims: scale does not matter to the normed one, and its network starts as the linear map."""

from __future__ import annotations

import torch

from vlp.models.projection.normed import NormedProjection

X = torch.randn(4, 8)


def test_normed_projection_ignores_the_scale_of_features() -> None:
    projection = NormedProjection(image_width=8, text_width=6, width=5, image_dropout=0.5).eval()
    torch.testing.assert_close(projection.project_image(X), projection.project_image(100 * X), rtol=1e-3, atol=1e-4)


def test_residual_network_starts_at_zero_and_learns() -> None:
    projection = NormedProjection(image_width=8, text_width=6, width=5, hidden_width=7)
    z = projection.project_image(X)
    torch.testing.assert_close(z, projection.image(projection.image_input(X)))
    z.square().sum().backward()
    assert projection.image_residual is not None
    last = projection.image_residual[-1]
    assert last.weight.grad is not None
    assert last.weight.grad.abs().sum() > 0
