"""Visual dialogue: which of the options answers a question about a picture, after what was said before it.

Das et al., arXiv:1611.08669, §5 and 6: a generative model ranks by the log-likelihood of each option, of all its tokens
together; a discriminative one by a score of the dialogue with the option behind it. The question's keys and values (or the
picture's) are computed once for all options. Figures: vlp/metrics/visual_dialogue.py, in percent but for mean_rank.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp import distributed
from vlp.data.rounds import round_numbers
from vlp.distributed import mean_over_ranks
from vlp.metrics.visual_dialogue import ndcg, rank_figures, strict_ranks, tied_ranks
from vlp.models.equal_inputs import content_keys, first_equal_positions
from vlp.models.precision import apply_head
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.lm import token_losses
from vlp.random import uniform
from vlp.structures import Batch, CrossAttentionCache, Features, Loss, Text, Tokens, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task, write_results
from vlp.tokenizers.base import Tokenizer

MODES = ("generative", "discriminative")
PERCENT = ("r1", "r5", "r10", "mrr", "ndcg")


@dataclass(frozen=True)
class _Measured:
    """One round: ranks are those of the right answer, by the model and by how frequent training answers are; None = unknown."""

    sample: int
    rank: float | None
    frequency_rank: float | None
    ndcg: float | None  # None = no option is relevant, or nobody said which are
    ranks: tuple[int, ...]  # of all options, kept for a file of results


class VisualDialogue(Task):
    """mode: of MODES.  width: of the fusion's pooled state, for the discriminative head.  label_smoothing: of the decoder's
    loss.  train_options: how many options of a training round the discriminative loss compares, the answer among them; the
    others are drawn again in each epoch.  options_per_step: texts that are scored at a time.  results_file: a JSON file for the
    leaderboard, with the ranks of all options of each round; of equal scores the first option comes first there.
    """

    requires = ("image", "question")
    uses = ("memory",)
    stored = ("mode", "width")
    predicts_from = ("choices",)
    submission_keys = ("image_id", "round_id", "ranks")

    def __init__(
        self,
        *,
        mode: str = "generative",
        width: int | None = None,
        label_smoothing: float = 0.0,
        train_options: int = 20,
        options_per_step: int = 1024,
        results_file: str | Path | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if mode not in MODES:
            raise UserError(f"unknown tasks.visual_dialogue.mode={mode!r}: choose {' or '.join(MODES)}")
        if mode == "discriminative" and width is None:
            raise UserError("the discriminative mode has a head: set tasks.visual_dialogue.width to model.fusion.width")
        if train_options < 2 or options_per_step < 1:
            raise UserError(
                f"tasks.visual_dialogue.train_options={train_options}, options_per_step={options_per_step}: give at least 2 "
                "options to compare, and at least 1 at a time"
            )
        self.mode, self.label_smoothing, self.train_options = mode, label_smoothing, train_options
        self.options_per_step = options_per_step
        self.results_file = None if results_file is None else Path(results_file)
        self.needs: tuple[str, ...] = ("vision", "text", "fusion") + (("decoder",) if mode == "generative" else ())
        self.head = nn.Linear(width, 1) if mode == "discriminative" and width is not None else None
        self._frequencies: dict[str, Counter[str] | None] = {}  # of training answers, by data set

    def applies(self, batch: Batch, source: str) -> bool:
        """A training batch of the generative mode has an answer; every other one has options."""
        trains_on_answers = self.head is None and batch.raw is None
        has_target = (batch.answer if trains_on_answers else batch.choices) is not None
        labelled = batch.raw is not None or self.head is None or batch.label is not None
        return super().applies(batch, source) and has_target and labelled

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._tokenizer, self._data = tokenizer, data

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        if self.head is not None:
            return self._choice_loss(model, batch, features)
        answer, answer_weight = require(batch.answer), require(batch.answer_weight)
        text = Text(ids=answer.ids.flatten(0, 1), mask=answer.mask.flatten(0, 1))
        logits = model.decode(text, self._read_dialogue(model, batch, features.memory))
        losses = token_losses(logits, text, label_smoothing=self.label_smoothing)
        return Loss(value=mean_over_ranks((losses.sum(1) * answer_weight.flatten()).sum(), len(batch)))

    def _choice_loss(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        """Cross-entropy of the answer among `train_options` options: the mean over rounds."""
        options, label = require(batch.choices), require(batch.label)
        real, rows = options.mask.any(2), torch.arange(len(batch), device=label.device)
        order = uniform(batch.seed, real.shape[1]).masked_fill(~real, 2.0)
        order[rows, label] = -1.0  # the answer is always among them, and first
        chosen = order.argsort(dim=1, stable=True)[:, : self.train_options]
        picked = Text(ids=options.ids[rows[:, None], chosen], mask=options.mask[rows[:, None], chosen])
        scores = self._score_matches(model, require(batch.question), require(features.memory), picked)
        scores = scores.masked_fill(~picked.mask.any(2), -torch.inf)
        value = F.cross_entropy(scores, torch.zeros_like(label), reduction="sum")
        correct = (scores.detach().argmax(1) == 0).to(value.dtype).sum()
        count = len(batch)
        return Loss(value=mean_over_ranks(value, count), logs={"accuracy": 100 * mean_over_ranks(correct, count)})

    def _read_dialogue(self, model: VisionLanguageModel, batch: Batch, memory: Any) -> Tokens:
        return model.fuse(model.encode_text(require(batch.question)), require(memory))

    # -- measuring -------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        self._measured: list[_Measured] = []

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if batch.raw is None:
            raise UserError("visual_dialogue compares with the answers: it needs batches with `raw` samples")
        scores, real = self.score_options(model, batch, features.memory)
        ranks = tied_ranks(scores, real)
        gains = None if batch.relevance is None else ndcg(scores, batch.relevance)
        strict = strict_ranks(scores.masked_fill(~real, -torch.inf))
        for row, sample in enumerate(batch.raw):
            gain = float("nan") if gains is None else float(gains[row])
            self._measured.append(
                _Measured(
                    sample=sample.sample,
                    rank=None if sample.label is None else float(ranks[row, sample.label]),
                    frequency_rank=self._frequency_rank(sample.choices, sample.label),
                    ndcg=None if gain != gain else gain,
                    ranks=tuple(strict[row, : len(sample.choices)].tolist()) if self.results_file else (),
                )
            )

    def score_options(
        self, model: VisionLanguageModel, batch: Batch, memory: CrossAttentionCache | Tokens | None
    ) -> tuple[Float[Tensor, "b k"], Bool[Tensor, "b k"]]:
        """Of each option, higher = better; and which options there are.  memory: of the pictures."""
        options = require(batch.choices)
        real = options.mask.any(2)
        if self.head is None:
            scores = self._log_likelihoods(model, self._read_dialogue(model, batch, memory), options)
        else:
            scores = self._score_matches(model, require(batch.question), require(memory), options)
        scores = require_finite(scores.float().masked_fill(~real, 0.0), "scores of the options")
        return self._with_equal_ties(scores, options), real

    def _with_equal_ties(self, scores: Float[Tensor, "b k"], options: Text) -> Float[Tensor, "b k"]:
        """Options of a round that are equal to the model get the very score of the first of them."""
        flat = Text(ids=options.ids.flatten(0, 1), mask=options.mask.flatten(0, 1))
        keys, width = content_keys(flat), scores.shape[1]
        first = [first_equal_positions(keys[start : start + width]) for start in range(0, len(keys), width)]
        return scores.gather(1, torch.stack(first).to(scores.device))

    def _log_likelihoods(self, model: VisionLanguageModel, dialogue: Tokens, options: Text) -> Float[Tensor, "b k"]:
        decoder, (rows, count) = model.part("decoder"), options.mask.shape[:2]
        memory: CrossAttentionCache = decoder.project_memory(dialogue)
        scores = torch.zeros(rows, count, device=options.ids.device)
        for part, columns in _chunks(rows, count, self.options_per_step):
            text = _flat(options, part, columns)
            losses = token_losses(decoder(text, memory.select(part)), text)
            scores[part, columns] = -losses.float().sum(1).unflatten(0, (-1, columns.stop - columns.start))
        return scores

    def _score_matches(
        self, model: VisionLanguageModel, question: Text, memory: Any, options: Text
    ) -> Float[Tensor, "b k"]:
        rows, count = options.mask.shape[:2]
        limit = self._tokenizer.context_length
        scores = []
        for part, columns in _chunks(rows, count, self.options_per_step):
            width = columns.stop - columns.start
            owner = torch.arange(rows, device=options.ids.device)[part].repeat_interleave(width)
            text = append_texts(
                question.select(owner), _flat(options, part, columns), limit=limit, start=self._tokenizer.add_start
            )
            pooled = model.fuse(model.encode_text(text), memory.select(owner)).pooled
            scores.append(apply_head(require(self.head), pooled)[:, 0].view(-1, width))
        per_row = -(-count // min(count, self.options_per_step))  # chunks of one row of questions
        joined = [torch.cat(scores[i : i + per_row], 1) for i in range(0, len(scores), per_row)]
        return torch.cat(joined)

    def _frequency_rank(self, options: Sequence[str], label: int | None) -> float | None:
        """The answer's rank where options are ranked by how often they answer training questions."""
        counts = self._count_training_answers()
        if label is None or counts is None:
            return None
        scores = torch.tensor([[float(counts[option]) for option in options]])
        return float(tied_ranks(scores)[0, label])

    def _count_training_answers(self) -> Counter[str] | None:
        name = self._data.name
        if name not in self._frequencies:
            self._frequencies[name] = None
            try:
                train = self._data.split("train")
                self._frequencies[name] = Counter(answer for sample in train for answer in sample.answers)
            except FileNotFoundError as error:
                warnings.warn(
                    f"no frequent_answer_r1, as the training dialogues of {name} cannot be read: {error}", stacklevel=2
                )
        return self._frequencies[name]

    def left_out(self) -> int:
        """Rounds without an answer, unless no round has one (the test server)."""
        without = sum(one.rank is None for one in self._measured)
        return without if without < len(self._measured) else 0

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """rounds; r1, r5, r10, mrr (percent) and mean_rank over those with an answer; ndcg (percent) over the dense_rounds whose
        options have relevances; frequent_answer_r1: of ranking by how frequent the options are as training answers."""
        measured: list[_Measured] = sorted(distributed.gather_lists(self._measured), key=lambda one: one.sample)
        write_results(self.results_file, submission((one.sample, one.ranks) for one in measured))
        figures: dict[str, float | None] = {"rounds": float(len(measured))}
        if ranks := [one.rank for one in measured if one.rank is not None]:
            figures |= rank_figures(torch.tensor(ranks, dtype=torch.float64))
        if frequent := [one.frequency_rank for one in measured if one.frequency_rank is not None]:
            frequency_figures = rank_figures(torch.tensor(frequent, dtype=torch.float64))
            figures["frequent_answer_r1"] = 100 * frequency_figures["r1"]
        if gains := [one.ndcg for one in measured if one.ndcg is not None]:
            figures |= {"ndcg": sum(gains) / len(gains), "dense_rounds": float(len(gains))}
        return {
            name: 100 * value if name in PERCENT and value is not None else value for name, value in figures.items()
        }

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The rank of each option from 1, and the best one; image_id and round_id as the leaderboard numbers them."""
        memory = model.project_memory(model.encode_image(require(batch.image)))
        scores, real = self.score_options(model, batch, memory)
        strict = strict_ranks(scores.masked_fill(~real, -torch.inf))
        records: list[dict[str, object]] = []
        for row, sample in enumerate(require(batch.raw)):
            ranks = strict[row, : len(sample.choices)].tolist()
            (record,) = submission([(sample.sample, ranks)])
            records.append(record | {"answer": sample.choices[ranks.index(1)]})
        return records


def submission(rounds: Any) -> list[dict[str, object]]:
    """VisDial's leaderboard file, from (`Sample.sample`, ranks) of each round."""
    return [
        dict(zip(("image_id", "round_id"), round_numbers(sample), strict=True)) | {"ranks": list(ranks)}
        for sample, ranks in rounds
    ]


def append_texts(texts: Text, behind: Text, *, limit: int, start: bool) -> Text:
    """Row i of `behind`, without its start token, after row i of `texts`, which loses its first tokens after the start token
    where both together are longer than `limit`.  start: whether texts have a start token."""
    first, second = texts.mask.sum(1, keepdim=True), behind.mask.sum(1, keepdim=True) - int(start)
    surplus = (first + second - limit).clamp(min=0)
    position = torch.arange(int((first + second - surplus).max()), device=first.device)
    kept = first - surplus
    in_first = position + torch.where(position >= int(start), surplus, 0)
    in_second = position - kept + int(start)
    own = texts.ids.gather(1, in_first.clamp(max=texts.ids.shape[1] - 1))
    added = behind.ids.gather(1, in_second.clamp(min=0, max=behind.ids.shape[1] - 1))
    mask = position < kept + second
    return Text(ids=torch.where(position < kept, own, added).masked_fill(~mask, 0), mask=mask)


def _flat(options: Text, rows: slice, columns: slice) -> Text:
    """Options of some rows as [n t], cut to the longest of them."""
    ids, mask = options.ids[rows, columns].flatten(0, 1), options.mask[rows, columns].flatten(0, 1)
    return Text(ids=ids, mask=mask).select(slice(None))


def _chunks(rows: int, count: int, per_step: int) -> list[tuple[slice, slice]]:
    """Rectangles of at most `per_step` of rows × count options, row by row."""
    columns, height = min(count, per_step), max(1, per_step // count)
    return [
        (slice(row, min(rows, row + height)), slice(column, min(count, column + columns)))
        for row in range(0, rows, height)
        for column in range(0, count, columns)
    ]
