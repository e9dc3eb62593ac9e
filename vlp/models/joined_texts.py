"""Texts one after another in one row: a question and a response, or a question, its answer and the reason for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from einops import repeat
from jaxtyping import Int
from torch import Tensor

from vlp.models.equal_inputs import content_keys, first_equal_positions
from vlp.structures import Text
from vlp.system.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """Queries [n t], each with its responses [n k t].  owner: the image of each.  rationale: 1 where the responses are rationales,
    0 where they are answers."""

    queries: Text
    responses: Text
    owner: Int[Tensor, " n"]
    rationale: Int[Tensor, " n"]


def join_texts(parts: Sequence[Text], *, starts: bool, limit: int, truncate: bool) -> Text:
    """Row i of each part [b t], in this order, each with its end token where it has one, and with one start token in all.

    starts: whether the parts begin with a start token.  limit: tokens of a row.  truncate: a row of more loses the last tokens
    of what stands before the last part; else it is an error.  Raises UserError for a last part that alone is longer.
    """
    before = _side_by_side(
        [part if not index else _without_start(part, starts) for index, part in enumerate(parts[:-1])]
    )
    last = _without_start(parts[-1], starts)
    room = limit - last.mask.sum(1, keepdim=True)
    length = before.mask.sum(1, keepdim=True)
    if bool((room < 1).any()) or (not truncate and bool((length > room).any())):
        longest = int((length + limit - room).max())
        raise UserError(
            f"a question with its response has {longest} tokens, and the text tower takes {limit}: set "
            "tokenizer.context_length, or tokenizer.truncate=true to shorten questions"
        )
    positions = torch.arange(before.mask.shape[1], device=before.ids.device)
    before = Text(ids=before.ids, mask=before.mask & (positions < room), regions=before.regions)
    return _side_by_side([before, last])


def each_with_all(queries: Text, responses: Text) -> tuple[Text, Text]:
    """Row i of the queries [n t] with each of the k responses of row i [n k t]: both as n · k rows."""
    count = responses.ids.shape[1]
    index = repeat(torch.arange(len(queries.ids), device=queries.ids.device), "n -> (n k)", k=count)
    return queries.select(index), flatten_rows(responses)


def flatten_rows(text: Text) -> Text:
    """[n k t] as [n · k t], row by row."""
    regions = None if text.regions is None else text.regions.flatten(0, 1)
    return Text(ids=text.ids.flatten(0, 1), mask=text.mask.flatten(0, 1), regions=regions)


def choose_response(responses: Text, index: Int[Tensor, " n"]) -> Text:
    """Of each row of [n k t] the response with this index."""
    rows = torch.arange(len(index), device=index.device)
    return responses.select((rows, index))


def concatenate_rows(texts: Sequence[Text]) -> Text:
    """The rows of several texts, padded to the longest."""
    length = max(text.ids.shape[-1] for text in texts)

    def joined(name: str, value: int) -> Tensor:
        rows = []
        for text in texts:
            tensor = getattr(text, name)
            at_end = [0, length - text.ids.shape[-1]]
            extra = [0, 0] if name == "regions" else []
            rows.append(torch.nn.functional.pad(tensor, [*extra, *at_end], value=value))
        return torch.cat(rows)

    regions = None if any(text.regions is None for text in texts) else joined("regions", -1)
    return Text(ids=joined("ids", 0), mask=joined("mask", 0), regions=regions)


def stack_responses(parts: Sequence[Text]) -> Text:
    """[b k t] texts one below the other.  Raises UserError where one has more texts in a row than another."""
    counts = [part.ids.shape[1] for part in parts]
    if len(set(counts)) > 1:
        raise UserError(f"{counts[0]} answers and {counts[1]} rationales of a question: give as many of both")
    joined = concatenate_rows([flatten_rows(part) for part in parts])
    shape = (sum(len(part.ids) for part in parts), counts[0])
    regions = None if joined.regions is None else joined.regions.unflatten(0, shape)
    return Text(ids=joined.ids.unflatten(0, shape), mask=joined.mask.unflatten(0, shape), regions=regions)


def first_equal_texts(text: Text, of: Int[Tensor, "r m"]) -> Int[Tensor, " r"]:
    """For each text the position of the first one that is equal and has the same numbers in `of`."""
    rows = zip(of.tolist(), content_keys(text), strict=True)
    return first_equal_positions([f"{numbers}".encode() + key for numbers, key in rows])


def _without_start(text: Text, starts: bool) -> Text:
    if not starts:
        return text
    regions = None if text.regions is None else text.regions[:, 1:]
    return Text(ids=text.ids[:, 1:], mask=text.mask[:, 1:], regions=regions)


def _side_by_side(parts: Sequence[Text]) -> Text:
    """Row i of each part, without the padding between them."""
    ids, mask = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("ids", "mask"))
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    regions = None
    if parts[0].regions is not None:
        both = torch.cat([part.regions for part in parts if part.regions is not None], dim=1)
        regions = both.gather(1, order[..., None].expand(-1, -1, both.shape[2]))
    joined = Text(ids=ids.gather(1, order), mask=mask.gather(1, order), regions=regions)
    return joined.select(slice(None))
