from __future__ import annotations

from types import SimpleNamespace

import pytest
import wandb
from wandb.sdk import wandb_setup

from tests.system.compat.contract import Contract, broken
from vlp.system.compat.wandb import forget_service

CONTRACTS = [
    Contract(
        name="wandb.sdk.wandb_setup:_singleton",
        needed="let a run end whose W&B service has died",
        used_in="wandb.forget_service()",
    ),
    Contract(
        name="wandb:teardown",
        needed="end W&B's service process",
        used_in="wandb.forget_service()",
        parameters=("exit_code",),
    ),
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.id)
def test_contract(contract: Contract) -> None:
    sentence = broken(contract)
    assert sentence is None, sentence


def test_a_service_that_does_not_answer_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def teardown(exit_code: int) -> None:
        raise ConnectionError("no service")

    monkeypatch.setattr(wandb, "teardown", teardown)
    monkeypatch.setattr(wandb, "run", SimpleNamespace())
    monkeypatch.setattr(wandb_setup, "_singleton", SimpleNamespace())
    forget_service()
    assert wandb.run is None
    assert wandb_setup._singleton is None
