"""From the classes of a data set to those that a head has vectors of, by their names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from vlp.data.view import VOID_CLASS
from vlp.system.errors import UserError


def class_table(names: Sequence[str], own: Sequence[str], *, task: str, source: str) -> Int[Tensor, " 256"]:
    """The head's class of each class of the data; VOID_CLASS stays as it is.  names, own: of the data's and of the head's.
    Raises UserError where they are not the same classes."""
    if set(names) != set(own) or len(set(names)) != len(names):
        ours, theirs = (", ".join(list(each)[:8]) for each in (own, names))
        raise UserError(f"{task} was built for {ours}, and {source} has {theirs}: they must be the same classes")
    table = torch.full((256,), VOID_CLASS)
    table[: len(names)] = torch.tensor([list(own).index(name) for name in names])
    return table
