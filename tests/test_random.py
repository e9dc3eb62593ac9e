from __future__ import annotations

import torch

from vlp.random import mix, mix_rows, permutation, seeded, uniform


def test_known_value_never_changes() -> None:
    # the order of every recorded run depends on these numbers
    assert mix(0) == 0xE220A8397B1DCDAF >> 1  # splitmix64's first output for state 0
    assert mix(1, 2, 3) == mix(1, 2, 3) != mix(3, 2, 1)


def test_one_bit_changes_half_of_the_bits() -> None:
    flips = [bin(mix(7, k) ^ mix(7, k ^ 1)).count("1") for k in range(0, 400, 2)]
    assert 28 < sum(flips) / len(flips) < 35


def test_permutation_is_complete_and_keyed() -> None:
    assert sorted(permutation(100, 1, 0).tolist()) == list(range(100))
    assert not torch.equal(permutation(100, 1, 0), permutation(100, 1, 1))


def test_seeded_restores_the_global_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(9):
        inside = torch.rand(1)
    with seeded(9):
        assert torch.equal(torch.rand(1), inside)
    assert torch.equal(torch.rand(2), expected)


def test_rows_of_a_tensor_are_mixed_as_integers_are() -> None:
    keys = torch.tensor([0, 1, 2**62 + 12345, 2**63 - 1])
    expected = [mix(3, int(key), -7) for key in keys]
    assert mix_rows(3, keys, -7).tolist() == expected
    assert mix_rows(3, keys[:, None], keys).shape == (4, 4)


def test_uniform_numbers_depend_on_their_seed_and_column_alone() -> None:
    numbers = uniform(torch.arange(400), 500)
    assert torch.equal(uniform(torch.arange(100, 200), 50), numbers[100:200, :50])
    assert 0 < numbers.min() < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.003
    assert abs(torch.corrcoef(numbers.flatten().view(2, -1))[0, 1]) < 0.01
