from __future__ import annotations

import pytest

from vlp.deploy.serving.keys import check_host, is_loopback, read_key
from vlp.system.errors import UserError

KEY = "k3y-of-twenty-letters"


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLP_KEY", raising=False)
    assert read_key("VLP_KEY") is None
    monkeypatch.setenv("VLP_KEY", KEY)
    assert read_key("VLP_KEY") == KEY


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "has 0 characters"),
        ("short", "can be guessed"),
        (KEY + "\n", "line ends"),
        ("käse" * 5, "ASCII"),
        (KEY + " a", "without spaces"),
    ],
)
def test_a_key_that_protects_nothing_is_refused(key: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLP_KEY", key)
    with pytest.raises(UserError, match=message) as refused:
        read_key("VLP_KEY")
    assert not key.strip() or key.strip() not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


def test_other_machines_need_a_key() -> None:
    with pytest.raises(UserError, match="without a key: set one by export VLP_KEY"):
        check_host("0.0.0.0", None, "VLP_KEY")
    check_host("0.0.0.0", KEY, "VLP_KEY")
    check_host("127.0.0.1", None, "VLP_KEY")
