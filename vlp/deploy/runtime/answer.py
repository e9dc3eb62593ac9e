"""`Engine.answer`: by a classifier, by the likelihood of given answers, or written; see vlp/tasks/vqa.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from vlp.deploy.runtime.decoding import GraphDecoder, text_losses
from vlp.deploy.runtime.equal_inputs import require_finite, text_keys
from vlp.deploy.runtime.generate import SearchRules, beam_search, log_softmax
from vlp.deploy.runtime.graphs import Graphs
from vlp.deploy.runtime.manifest import AnswersSection
from vlp.deploy.runtime.tokenize import ArtifactTokenizer
from vlp.system.errors import UserError

ANSWERS_PER_STEP = 1024  # that the decoder scores at a time
TOP = 5  # answers that are returned
Answer = tuple[str, float]


def check_answers(task: AnswersSection, answers: Sequence[str]) -> tuple[str, ...]:
    """The answers to choose from.  Raises UserError where these cannot be asked for, and where there are none to rank."""
    if isinstance(answers, str):
        raise UserError(f"answers must be a list, not the string {answers!r}")
    if answers and task.kind != "rank":
        how = "writes its answers" if task.kind == "generate" else "was trained to choose among its own answers"
        raise UserError(f"answers: this artifact {how}: give none")
    names = tuple(answers) or task.names
    if task.kind == "rank" and not names:
        raise UserError("answers: this artifact has none to choose from: give some")
    return names


def classify_answers(graphs: Graphs, feeds: dict[str, np.ndarray], names: Sequence[str]) -> list[list[Answer]]:
    logits = require_finite(graphs.run("answer", feeds)["answer_logits"], "logits of the answers")
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]  # not of probabilities: those near 1 are equal
    scores = 1 / (1 + np.exp(-np.take_along_axis(logits, order, 1).astype(np.float64)))
    return _named(order, scores, names)


def rank_answers(
    decoder: GraphDecoder, answers: tuple[Int[np.ndarray, "a t"], Bool[np.ndarray, "a t"]], task: AnswersSection, questions: int,
    names: Sequence[str],
) -> list[list[Answer]]:  # fmt: skip
    """answers: ids and mask of the names' texts."""
    ids, mask = answers
    start, cache = decoder.start(np.repeat(ids[:1, :1], questions, 0))
    first = log_softmax(require_finite(start, "logits of the answers"))[:, ids[:, 1]]
    index = np.argsort(-first, axis=1, kind="stable")[:, : task.candidates]
    candidates, scores = index.shape[1], []
    questions_per_step = max(1, ANSWERS_PER_STEP // candidates)
    for begin in range(0, questions, questions_per_step):
        part = np.arange(begin, min(begin + questions_per_step, questions))
        chosen, rows = index[part].reshape(-1), np.repeat(np.arange(len(part)), candidates)
        losses = text_losses(
            decoder,
            start[part][rows],
            cache.of_images(part).select(rows),
            ids[chosen],
            mask[chosen],
            label_smoothing=task.label_smoothing,
        )
        scores.append(-losses.reshape(-1, candidates))
    score = np.concatenate(scores)
    if task.first_token_twice:
        score = score + np.take_along_axis(first, index, 1)
    require_finite(score, "scores of the answers")
    keys = text_keys(ids, mask)
    texts = np.array([keys.index(key) for key in keys])[index]  # "[UNK]" is the text of many answers
    score = np.take_along_axis(score, (texts[:, :, None] == texts[:, None, :]).argmax(2), 1)
    order = np.argsort(-score, axis=1, kind="stable")
    probability = np.exp(log_softmax(np.take_along_axis(score, order, 1)))
    return _named(np.take_along_axis(index, order, 1)[:, :TOP], probability[:, :TOP], names)


def write_answers(
    decoder: GraphDecoder, tokenizer: ArtifactTokenizer, task: AnswersSection, questions: int
) -> list[list[Answer]]:
    """By beam search; with its probability, the product over its tokens."""
    own = tokenizer.rules
    rules = SearchRules(end_id=own.end_id, pad_id=own.pad_id, max_length=task.max_length)
    start = np.full((questions, 1), own.start_id, dtype=np.int64)
    ids = beam_search(decoder, start, rules, beams=task.beams)
    ends = (ids == own.end_id).cumsum(1)
    mask = (ends == 0) | ((ids == own.end_id) & (ends == 1))
    losses = text_losses(decoder, *decoder.start(start), ids, mask)
    return [[(tokenizer.decode(row), float(value))] for row, value in zip(ids.tolist(), np.exp(-losses), strict=True)]


def _named(order: Int[np.ndarray, "b k"], scores: Float[np.ndarray, "b k"], names: Sequence[str]) -> list[list[Answer]]:
    rows = zip(order.tolist(), scores.tolist(), strict=True)
    return [[(names[position], value) for position, value in zip(*row, strict=True)] for row in rows]
