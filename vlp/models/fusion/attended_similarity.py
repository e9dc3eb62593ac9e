"""How similar every word is to the image regions that it attends to, and every region to the words of a caption.

With cosines c = ⟨w, p⟩ and attention a = exp(λ c) / Σ exp(λ c), over the regions of an image or over the words of a caption,
it is f = Σ a c: SCAN's two directions (Lee et al., arXiv:1803.08024, §3.1), but without its rectified, normalised cosines before
the softmax, and without dividing by the length of what is attended to. Then

    ∂f/∂c = a (1 + λ (c − f)),   ∂f/∂λ = Σ a c (c − f)

so words, regions and f are enough for the backward pass, which computes c of every word with every region again, in blocks that
fit into a CPU's cache. Both directions share one exponential.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp.system.errors import UserError

_BLOCK = {"cpu": 2**19, "cuda": 2**25}  # cosines at a time
MAX_SHARPNESS = 40.0  # exp(λ (c − 1)) stays above 1e-35


def attended_similarity(
    words: Float[Tensor, "w d"],
    regions: Float[Tensor, "b p d"],
    sharpness: Float[Tensor, ""],
    *,
    owner: Int[Tensor, " w"],
    captions: int,
    region_mask: Bool[Tensor, "b p"],
) -> tuple[Float[Tensor, "w b"], Float[Tensor, "{captions} b p"]]:
    """f of words with images and of regions with captions, at least in single precision, from unit vectors.

    sharpness: λ, above 0, at most 40.  owner: the caption of each word, in rising order; each caption has a word.
    region_mask: False = no word attends to that region, and its f is zero.
    Gradients of gradients are not available; autocast has to be off, because the backward pass computes the cosines again.
    """
    lengths = torch.bincount(owner, minlength=captions).tolist()
    if 0 in lengths:
        raise UserError(f"caption {lengths.index(0)} of the batch has no word to compare with an image")
    return _AttendedSimilarity.apply(
        words, regions.to(words), sharpness, lengths, None if bool(region_mask.all()) else region_mask
    )


class _AttendedSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, words: Tensor, regions: Tensor, sharpness: Tensor, lengths: list[int], region_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        single = torch.promote_types(words.dtype, torch.float32)
        by_word = words.new_empty(len(words), len(regions), dtype=single)
        by_region = words.new_empty(len(lengths), *regions.shape[:2], dtype=single)
        total_word, total_region = torch.empty_like(by_word), torch.empty_like(by_region)
        for rows, captions, member in _caption_blocks(lengths, regions):
            cosine, weight = _attention_weights(words[rows], regions, sharpness, region_mask)
            total_word[rows], total_region[captions] = weight.sum(-1), _sum_over_captions(member, weight)
            weight.mul_(cosine)
            by_word[rows], by_region[captions] = weight.sum(-1), _sum_over_captions(member, weight)
        if region_mask is not None:
            total_region.masked_fill_(~region_mask, 1)
        by_word, by_region = by_word.div_(total_word), by_region.div_(total_region)
        ctx.save_for_backward(words, regions, sharpness, by_word, by_region, total_word, total_region)
        ctx.lengths, ctx.region_mask = lengths, region_mask
        return by_word, by_region

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_word: Tensor, to_region: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        words, regions, sharpness, by_word, by_region, total_word, total_region = ctx.saved_tensors
        # a (1 + λ (c − f)) g, summed over both directions, is exp(λ c) (A + λ (A c − B)) with A = g / Σ exp(λ c) and B = A f
        a_word, a_region = to_word / total_word, to_region / total_region
        b_word, b_region = a_word * by_word, a_region * by_region
        grad_words = torch.empty_like(words)
        grad_regions, grad_sharpness = torch.zeros_like(regions, dtype=by_word.dtype), by_word.new_zeros(())
        flat = regions.flatten(0, 1)
        for rows, captions, member in _caption_blocks(ctx.lengths, regions):
            cosine, weight = _attention_weights(words[rows], regions, sharpness, ctx.region_mask)
            a = a_region[captions][member].add_(a_word[rows, :, None])
            b = b_region[captions][member].add_(b_word[rows, :, None])
            slope = (a * cosine).sub_(b)
            grad_sharpness += torch.dot((slope * weight).flatten(), cosine.flatten())
            grad_cosine = slope.mul_(sharpness.to(slope)).add_(a).mul_(weight).to(words.dtype).flatten(1)
            grad_words[rows] = grad_cosine @ flat
            grad_regions += (grad_cosine.T @ words[rows]).view_as(grad_regions)
        return grad_words, grad_regions.to(regions.dtype), grad_sharpness.to(sharpness.dtype), None, None


def _attention_weights(
    words: Float[Tensor, "w d"],
    regions: Float[Tensor, "b p d"],
    sharpness: Float[Tensor, ""],
    region_mask: Tensor | None,
) -> tuple[Float[Tensor, "w b p"], Float[Tensor, "w b p"]]:
    """Cosines and exp(λ (c − 1)), which is zero in masked regions."""
    cosine = (words @ regions.flatten(0, 1).T).view(len(words), *regions.shape[:2])
    cosine = cosine.to(torch.promote_types(words.dtype, torch.float32))
    weight = (cosine - 1).mul_(sharpness.to(cosine)).exp_()
    return cosine, weight if region_mask is None else weight.mul_(region_mask)


def _sum_over_captions(member: Int[Tensor, " w"], x: Float[Tensor, "w b p"]) -> Float[Tensor, "r b p"]:
    """Over the words of each caption, as a product with zeros and ones."""
    ones = torch.zeros(int(member[-1]) + 1, len(member), dtype=x.dtype, device=x.device)
    ones[member, torch.arange(len(member), device=x.device)] = 1
    return (ones @ x.flatten(1)).view(-1, *x.shape[1:])


def _caption_blocks(lengths: list[int], regions: Tensor) -> list[tuple[slice, slice, Int[Tensor, " w"]]]:
    """Words and captions of each block, and the caption of each of its words, counted from the block's first."""
    at_most = _BLOCK.get(regions.device.type, 2**19) // max(1, regions.shape[0] * regions.shape[1])
    blocks, word, caption = [], 0, 0
    while caption < len(lengths):
        count, rows = 1, lengths[caption]
        while caption + count < len(lengths) and rows + lengths[caption + count] <= at_most:
            rows += lengths[caption + count]
            count += 1
        member = torch.repeat_interleave(
            torch.arange(count, device=regions.device),
            torch.tensor(lengths[caption : caption + count], device=regions.device),
        )
        blocks.append((slice(word, word + rows), slice(caption, caption + count), member))
        word, caption = word + rows, caption + count
    return blocks
