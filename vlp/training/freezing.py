"""Frozen parts: parameters that are not trained, and modules whose statistics and dropout stay off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import nn

from vlp.system.errors import UserError


def compile_pattern(place: str, pattern: object) -> re.Pattern[str]:
    """A regular expression of parameter names, from a config.  place: its key.  Raises UserError."""
    if not isinstance(pattern, str):
        raise UserError(f"{place}: {pattern!r} is no regular expression of parameter names: write it in quotes")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{place}: {pattern!r} is no regular expression: {error}") from error


def freeze_parameters(module: nn.Module, patterns: Sequence[str]) -> None:
    """patterns: regexes of parameter names; a shared parameter has several.  Raises UserError for one without a match."""
    named = list(module.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        regex = compile_pattern("freeze", pattern)
        matched = [parameter for name, parameter in named if regex.search(name)]
        if not matched:
            raise UserError(f"freeze: the pattern {pattern!r} matches no parameter (names look like 'model.vision.…')")
        for parameter in matched:
            parameter.requires_grad_(False)


def frozen_parts(model: nn.Module, objectives: nn.ModuleDict) -> Iterator[nn.Module]:
    """Modules of the model and of the objectives' heads that have parameters, none of them trainable."""
    heads = (head for objective in objectives.values() for head in objective.children())
    for root in (model, *heads):
        for module in root.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                yield module
