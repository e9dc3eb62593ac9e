"""What vlp/system/compat relies on in another package, as rows of a table: a name, its parameters, and what it is needed for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Contract:
    """name: "module:attribute.attribute"; what follows the colon is looked up on `on()` where it is given (an attribute that only
    objects have).  needed: what vlp cannot do without it.  used_in: of vlp/system/compat/.  parameters: that vlp passes by name or
    that its replacement has to take, in this order; None where it is not called."""

    name: str
    needed: str
    used_in: str
    parameters: tuple[str, ...] | None = None
    on: Callable[[], Any] | None = None

    @property
    def id(self) -> str:
        return self.name.rpartition(":")[2] or self.name


def broken(contract: Contract) -> str | None:
    """One sentence for a name that is gone or takes other parameters; None where it is as vlp needs it."""
    module, _, path = contract.name.partition(":")
    package = module.partition(".")[0]
    try:
        release = version({"hydra": "hydra-core"}.get(package, package))
    except PackageNotFoundError:  # of Python itself
        release = ""
    advice = f"vlp needs it to {contract.needed}; adapt {contract.used_in} in vlp/system/compat/"
    try:
        found: Any = importlib.import_module(module)
        if contract.on is not None:
            found = contract.on()
        for part in path.split(".") if path else ():
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        return f"{package} {release}: {contract.name} is gone ({error}): {advice}"
    if contract.parameters is None:
        return None
    taken = inspect.signature(found).parameters
    accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    missing = [name for name in contract.parameters if name not in taken]
    if missing and not accepts_any:
        return f"{package} {release}: {contract.name} takes {', '.join(taken)} and no {', '.join(missing)}: {advice}"
    return None
