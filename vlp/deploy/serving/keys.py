"""The key that requests must bring. It comes from an environment variable: a command line is read by everybody on the machine."""

from __future__ import annotations

import ipaddress
import os

from vlp.system.errors import UserError

SHORTEST = 16  # characters


def read_key(variable: str) -> str | None:
    """None where the variable is not set.  Raises UserError for a key that is empty, short or no single word."""
    key = os.environ.get(variable)
    if key is None:
        return None
    fix = f"""set it by: export {variable}=$(python -c "import secrets; print(secrets.token_urlsafe())")"""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"{variable}: a key is made of ASCII letters, digits and signs without spaces or line ends; {fix}"
        )
    if len(key) < SHORTEST:
        raise UserError(
            f"{variable}: has {len(key)} characters and can be guessed; a key has at least {SHORTEST}; {fix}"
        )
    return key


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(host: str, key: str | None, variable: str) -> None:
    """Raises UserError for an address that others reach, without a key."""
    if key is None and not is_loopback(host):
        raise UserError(
            f"--host {host}: other machines could use this server and see your photos without a key: set one by "
            f"""export {variable}=$(python -c "import secrets; print(secrets.token_urlsafe())"), or leave --host out"""
        )
