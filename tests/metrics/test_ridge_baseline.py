from __future__ import annotations

import pytest
import torch

from vlp.metrics.ridge_baseline import bag_of_words, build_vocabulary, colour_histogram, fit_ridge, ridge_similarity


def flat(*colours: tuple[int, int, int]) -> torch.Tensor:
    """Images of one colour each."""
    return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, 3, 4, 5).contiguous()


def test_a_histogram_counts_shares_of_the_right_bins() -> None:
    image = flat((0, 0, 0), (255, 64, 128))
    image[0, :, :2] = 255
    histogram = colour_histogram(image)
    assert histogram.shape == (2, 64)
    assert histogram[0, 0] == histogram[0, 63] == 0.5
    assert histogram[1, 3 * 16 + 1 * 4 + 2] == 1


def test_words_are_counted_once_and_unknown_ones_not_at_all() -> None:
    known = build_vocabulary(["a red red star", "a ring"])
    assert list(known) == ["a", "red", "ring", "star"]
    assert bag_of_words(["Red, red rings: a", "!"], known).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]


def test_ridge_without_penalty_is_least_squares_with_an_intercept() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(50, 4, dtype=torch.float64, generator=generator), torch.randn(4, 3, dtype=torch.float64)
    weights, mean_x, mean_y = fit_ridge(x, x @ w + 2, penalty=0.0)
    torch.testing.assert_close(weights, w)
    torch.testing.assert_close((x - mean_x) @ weights + mean_y, x @ w + 2)


def test_colours_that_captions_name_are_found_and_their_order_is_not() -> None:
    red, blue, green = (250, 5, 5), (5, 5, 250), (5, 250, 5)
    captions = [["a red one", "red"], ["a blue one"], ["a green one", "it is green"]]
    similarity = ridge_similarity(
        train_pixels=flat(red, blue, green), train_captions=captions, pixels=flat(green, red),
        captions=["red here", "blue here", "green here", "green one left of red", "red one left of green"],
    )  # fmt: skip
    assert similarity.shape == (2, 5)
    assert similarity[:, :3].argmax(1).tolist() == [2, 0]
    torch.testing.assert_close(similarity[:, 3], similarity[:, 4])


def test_an_image_without_captions_is_refused() -> None:
    with pytest.raises(ValueError, match="one non-empty list for each image"):
        ridge_similarity(train_pixels=flat((0, 0, 0)), train_captions=[[]], pixels=flat((0, 0, 0)), captions=["a"])
