"""Collectives on two real gloo processes with unequal, also empty, shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.processes import run_processes
from vlp.distributed import fetch, gather, gather_objects, mean_over_ranks, row_offset, sum_over_ranks


def _on_rank(rank: int, world: int) -> dict[str, Any]:
    x = (torch.arange(6.0).reshape(3, 2) + 10 * rank)[: 3 - rank].requires_grad_()
    joined = gather(x)
    (joined * torch.arange(1.0, 6.0)[:, None]).sum().backward()
    empty = gather(torch.zeros(4 * rank, 3))
    mean = mean_over_ranks((x.detach() * (rank + 1)).sum(), len(x))
    return {
        "joined": joined.detach(),
        "gradient": x.grad,
        "empty": list(empty.shape),
        "offset": row_offset(x),
        "total": sum_over_ranks(torch.tensor([rank + 1.0])),
        "mean": mean,
        "objects": gather_objects({"rank": rank}),
        "integers": gather(torch.tensor([rank] * (rank + 1))),
    }


def test_unequal_shares(tmp_path: Path) -> None:
    first, second = run_processes(2, _on_rank, tmp_path)
    rows = torch.tensor([[0.0, 1], [2, 3], [4, 5], [10, 11], [12, 13]])
    for result in (first, second):
        assert torch.equal(result["joined"], rows)
        assert result["empty"] == [4, 3]
        assert result["total"] == 3
        assert result["objects"] == [{"rank": 0}, {"rank": 1}]
        assert result["integers"].tolist() == [0, 1, 1]
        torch.testing.assert_close(result["mean"], torch.tensor((15.0 + 46 * 2) / 5))
    assert (first["offset"], second["offset"]) == (0, 3)
    # both ranks computed the same sum, so each row's gradient is twice its weight
    assert first["gradient"][:, 0].tolist() == [2, 4, 6]
    assert second["gradient"][:, 0].tolist() == [8, 10]


def _fetch_on_rank(rank: int, world: int) -> dict[str, Any]:
    x = (torch.arange(6.0).reshape(3, 2) + 10 * rank)[: 3 - rank].requires_grad_()
    index = torch.tensor([[4, 0, 0, 2], [1, 4]][rank])
    weight = torch.arange(1.0, len(index) + 1)[:, None] * (rank + 1)
    rows = fetch(x, index)
    (rows * weight).sum().backward()
    none = fetch(x.detach(), torch.zeros(0, dtype=torch.int64))
    return {"rows": rows.detach(), "gradient": x.grad, "none": list(none.shape)}


def test_chosen_rows_and_their_gradients(tmp_path: Path) -> None:
    first, second = run_processes(2, _fetch_on_rank, tmp_path)
    assert first["rows"].tolist() == [[12, 13], [0, 1], [0, 1], [4, 5]]
    assert second["rows"].tolist() == [[2, 3], [12, 13]]
    # weights: rank 0 asks with 1, 2, 3, 4 for rows 4, 0, 0, 2; rank 1 with 2, 4 for rows 1, 4
    assert first["gradient"][:, 0].tolist() == [5, 2, 4]
    assert second["gradient"][:, 0].tolist() == [0, 5]
    assert first["none"] == second["none"] == [0, 2]


def test_one_process_is_the_identity() -> None:
    x = torch.rand(3, 2)
    assert gather(x) is x
    assert row_offset(x) == 0
    assert torch.equal(fetch(x, torch.tensor([2, 2])), x[[2, 2]])
    assert gather_objects(5) == [5]
