"""What a question's texts say of its things, by the words of the files: written from the sentences, not from the generator."""

from __future__ import annotations

from typing import Any

Thing = dict[str, Any]
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")


def is_true(tokens: list[Any], things: list[Thing]) -> bool:
    """Of a rationale: "[a] is … and [b] is …"."""
    starts = [position for position, token in enumerate(tokens) if isinstance(token, list)]
    parts = [tokens[start:end] for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True)]
    assert len(parts) == 2
    return all(
        _holds(things[part[0][0]], [word for word in part[1:] if word not in (".", "is", "a")]) for part in parts
    )


def _holds(thing: Thing, words: list[str]) -> bool:
    words = words[:-1] if words[-1] == "and" else words
    if words[:2] == ["at", "the"]:
        return [ROWS.index(words[2]), COLUMNS.index(words[3])] == list(thing["cell"])
    said = [word for word in words if word != "and"]
    known = {thing["colour"], thing["shape"], thing["size"]}
    return bool(said) and all(word in known for word in said)


def answers(row: dict[str, Any], things: list[Thing]) -> list[bool]:
    """Whether each answer is right."""
    words = [token for token in row["question"] if isinstance(token, str)]
    tags = [tag for token in row["question"] if isinstance(token, list) for tag in token]
    return [_is_right(words, [things[tag] for tag in tags], answer, things) for answer in row["answer_choices"]]


def _is_right(words: list[str], named: list[Thing], answer: list[Any], things: list[Thing]) -> bool:
    said = " ".join(token for token in answer if isinstance(token, str))
    if words[0] == "Who":
        name = "colour" if "color" in words else "shape"
        return bool(things[answer[0][0]][name] == named[0][name])
    first, second = named
    if words[0] == "What":
        same = (first["colour"] == second["colour"], first["shape"] == second["shape"])
        meant = {"Both": (True, True), "Only the color": (True, False), "Only the shape": (False, True)}
        return same == next((value for start, value in meant.items() if said.startswith(start)), (False, False))
    if words[0] == "Where":
        (row, column), (other_row, other_column) = first["cell"], second["cell"]
        return (row < other_row) == said.startswith("Higher") and (column < other_column) == ("left" in said)
    compared, asked = first, second  # "Compared with B, what are … of A?": B is named first
    name = "colour" if "color" in words else "shape"
    larger = asked["size"] == "large" and compared["size"] == "small"
    assert asked["size"] != compared["size"]
    return larger == said.startswith("Larger") and (asked[name] == compared[name]) == ("same" in said)
