"""A contract that does not hold is reported by the name, the purpose and the place."""

from __future__ import annotations

import pytest

from tests.system.compat.contract import Contract, broken


@pytest.mark.parametrize(
    ("name", "parameters", "what"),
    [
        ("torch.nowhere:_a", None, "torch.nowhere:_a is gone"),
        ("torch.nn:Module._nothing", None, "torch.nn:Module._nothing is gone"),
        ("torch.nn:Linear.forward", ("input", "other"), "torch.nn:Linear.forward takes self, input and no other"),
    ],
)
def test_what_does_not_hold(name: str, parameters: tuple[str, ...] | None, what: str) -> None:
    contract = Contract(name=name, needed="do this", used_in="torch.one()", parameters=parameters)
    sentence = broken(contract)
    assert sentence is not None
    assert what in sentence
    assert sentence.endswith("vlp needs it to do this; adapt torch.one() in vlp/system/compat/")


def test_an_attribute_of_an_object() -> None:
    def contract(attribute: str) -> Contract:
        return Contract(name=f"torch:{attribute}", needed="do this", used_in="torch.one()", on=lambda: 1j)

    assert broken(contract("real")) is None
    assert "is gone" in str(broken(contract("length")))


def test_what_holds() -> None:
    assert broken(Contract(name="torch.nn:Linear.forward", needed="", used_in="", parameters=("input",))) is None
