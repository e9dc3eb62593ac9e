"""Which cells of an image a score depends on: gradient × state, summed over channels.

    h_i = max(0, Σ_d s_id · ∂f/∂s_id)    f: the score, s_i: the tower's state of cell i

Draelos and Carin, arXiv:2011.08891 (HiResCAM), on the states of a tower instead of a feature map. It needs one forward and one
backward pass of what follows the tower, and neither attention maps nor a layer's name, so one function serves contrast,
matching and every fusion. The tower's states must be what the score reads: a tower whose pooled feature is not computed from
its states has no gradient there for a contrastive score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Heat, Text, Tokens
from vlp.system.errors import UserError

Score = Callable[[VisionLanguageModel, Tokens, Text], Float[Tensor, " b"]]  # `Objective.score`


def heat_of_states(
    score: Score, model: VisionLanguageModel, image: Tokens, text: Text, *, rectified: bool = True
) -> Heat:
    """Of text i on the cells of image i. States before the raster (a class token) have no cell and are left out.

    score: of each pair, such as `ITM.score`; it is differentiated also where gradients are off (evaluation, inference).
    rectified: negative values, of cells that speak against a match, become 0.
    Raises UserError where the states have no raster, or the score does not depend on them.
    """
    grid = image.grid
    if grid is None:
        raise UserError(
            "heat needs a raster of states, which a batch of images of several sizes has not, nor a tower that merges tokens: give "
            "one image at a time, to a tower without merging"
        )
    with torch.inference_mode(False), torch.enable_grad():
        image, text = image.map(torch.clone), text.map(torch.clone)  # tensors of inference mode cannot be saved
        states = image.states.detach().requires_grad_()
        total = score(model, replace(image, states=states), text).sum()
        gradient = None
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(total, states, allow_unused=True)
    if gradient is None:
        raise UserError(
            "the score does not depend on the states of the vision tower: explain one that reads them, such as that of itm"
        )
    return Heat(values=_on_raster((states.detach() * gradient).sum(-1), grid, rectified))


def _on_raster(values: Float[Tensor, "b n"], grid: tuple[int, int], rectified: bool) -> Float[Tensor, "b rows columns"]:
    values = values[:, -grid[0] * grid[1] :].unflatten(1, grid)
    return values.clamp(min=0) if rectified else values
