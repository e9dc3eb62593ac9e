"""What other codes wrap around a state dict: entries such as `state_dict` and `model`, and prefixes of names.

Names of torch's wrappers are left out wherever they stand: `module.` (DataParallel), `_orig_mod.` (torch.compile), and those of
FSDP and of activation checkpointing. Prefixes that all names have in common (`model.`, `clip.`) are left out if only without
them the names are those of a known format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlp.checkpoints.keys import State, without_prefix
from vlp.system import ranks
from vlp.system.errors import UserError

_WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGED = re.compile(r"(^|[._])ema([._]|$)|average|shadow|momentum|teacher")
_DEPTH = 4  # of entries in entries

Known = Callable[[State], bool]


def unwrap(content: Mapping[str, Any], path: Path, known: Known) -> State:
    """The state dict in a file's content, with the names of a format that is `known`. Averaged weights (`ema`) beside others
    are left alone, with a warning.  Raises UserError where there is none, or several."""
    states = {name: state for name, state in _nested_states(content) if state}
    if not states:
        raise UserError(
            f"{path} holds no tensors; its entries are {', '.join(sorted(map(str, content))[:8]) or 'none'}"
        )
    plain = {name: _without_prefixes(state, path, known) for name, state in states.items()}
    fitting = {name: state for name, state in plain.items() if known(state)}
    if not fitting:
        raise UserError(f"{path} {_describe_unknown(max(plain.values(), key=len), known)}")
    if len(fitting) > 1 and (main := {name: state for name, state in fitting.items() if not _AVERAGED.search(name)}):
        left = ", ".join(sorted(fitting.keys() - main.keys()))
        if left and len(main) == 1:
            ranks.warn_once(f"{path}: its entry {next(iter(main)) or 'at the top'} is read; {left} is left alone")
        fitting = main
    if len(fitting) > 1:
        names = " and ".join(sorted(fitting))
        raise UserError(f"{path} holds several weights, in {names}: save those to be read in a file of their own")
    return next(iter(fitting.values()))


def without_torch_wrappers(state: State, path: Path) -> State:
    plain = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    if len(plain) < len(state):
        raise UserError(
            f"{path}: without the names of torch's wrappers two tensors have the same name: save a plain state dict"
        )
    return plain


def _nested_states(content: Mapping[Any, Any], name: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """The tensors of each dict in the content, by the path of its entry."""
    yield name, {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    for key, value in content.items() if depth < _DEPTH else ():
        if isinstance(value, Mapping) and isinstance(key, str):
            yield from _nested_states(value, f"{name}.{key}".lstrip("."), depth + 1)


def _without_prefixes(state: State, path: Path, known: Known) -> State:
    inner = plain = without_torch_wrappers(state, path)
    while not known(inner):
        prefix = next(iter(inner)).partition(".")[0] + "."
        if not all(key.startswith(prefix) for key in inner):
            return plain
        inner = without_prefix(inner, prefix)
    return inner


def _describe_unknown(state: State, known: Known) -> str:
    prefixes = {f"{key.partition('.')[0]}." for key in state if "." in key}
    for prefix in sorted(prefixes):
        if known(without_prefix(state, prefix)):
            others = sorted(key for key in state if not key.startswith(prefix))
            return (
                f"holds a known format below {prefix} and {len(others)} tensors beside it ({', '.join(others[:3])}): save the "
                f"part below {prefix} in a file of its own"
            )
    return f"is of no format that vlp reads; its keys are {', '.join(sorted(state)[:5])}, …"
