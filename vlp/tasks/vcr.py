"""Visual commonsense reasoning: a question about a photo, four answers, and four rationales for the right answer.

Zellers et al., arXiv:1811.10830; the figures are those of rowanz/r2c, models/eval_q2ar.py: Q→A, QA→R given the right answer, and
Q→AR, both right. A response is scored with its query (the question, or question and answer) in one text, by a linear map of the
state that the fusion pools; or by its likelihood under a decoder that attends to the query fused with the picture. The picture is
encoded, and projected for the fusion, once for all texts about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp import distributed
from vlp.distributed import mean_over_ranks
from vlp.metrics.choices import choice_credit, reasoning_accuracy
from vlp.metrics.vcr_leaderboard import check_leaderboard_file, leaderboard_row, write_leaderboard
from vlp.models.joined_texts import (
    Asked,
    choose_response,
    concatenate_rows,
    each_with_all,
    first_equal_texts,
    join_texts,
    stack_responses,
)
from vlp.models.mentioned_regions import MentionedRegions
from vlp.models.precision import apply_head
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import classification_loss
from vlp.objectives.lm import add_prompt_and_end, token_losses
from vlp.structures import Batch, CrossAttentionCache, Features, Loss, Text, Tokens, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.tokenizers.base import Tokenizer

KINDS = ("head", "likelihood")


class VCR(Task):
    """kind: "head", a linear map of the pooled state for answers and one for rationales, or "likelihood", of the decoder.
    width: of that pooled state.

    length_exponent: a log-likelihood is divided by (tokens of the response)^length_exponent; 0 = the probability of the
    response, 1 = the mean over its tokens.  likelihood_weight: in training, of the right responses' own loss of language
    modelling, beside the cross-entropy over the candidates, whose weight is 1.
    region_widths: of the states of the image tower and of the text tower: the mean of the former within each box that a text
    mentions, mapped linearly, is added to the tokens that mention it; None = not.  results_file: a CSV for the leaderboard.
    """

    requires = ("image", "question", "choices", "rationales")
    stored = ("kind", "width", "length_exponent", "region_widths")
    predicts_by_head = True

    def __init__(
        self,
        *,
        kind: str = "head",
        width: int | None = None,
        length_exponent: float = 0.0,
        likelihood_weight: float = 0.0,
        region_widths: Sequence[int] | None = None,
        results_file: str | Path | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if kind not in KINDS:
            raise UserError(f"unknown tasks.vcr.kind={kind!r}: choose {' or '.join(KINDS)}")
        self.kind, self.length_exponent, self.likelihood_weight = kind, length_exponent, likelihood_weight
        self.results_file = None if results_file is None else check_leaderboard_file(Path(results_file))
        self.needs: tuple[str, ...] = ("vision", "text", "fusion")
        self.uses: tuple[str, ...] = ("memory",) if region_widths is None else ("image", "memory")
        self.answer_head: nn.Linear | None = None
        self.rationale_head: nn.Linear | None = None
        if kind == "head":
            if width is None:
                raise UserError("tasks.vcr.kind=head needs tasks.vcr.width, that of the fusion's pooled state")
            self.answer_head, self.rationale_head = nn.Linear(width, 1), nn.Linear(width, 1)
            for head in (self.answer_head, self.rationale_head):
                nn.init.normal_(head.weight, std=0.02)
                nn.init.zeros_(head.bias)
            if likelihood_weight:
                raise UserError("tasks.vcr.likelihood_weight is of tasks.vcr.kind=likelihood: set it to 0 for a head")
        else:
            self.needs += ("decoder",)
            if region_widths is not None:
                raise UserError(
                    "tasks.vcr.region_widths is for heads, since a decoder reads responses by their ids alone"
                )
        self.regions = None if region_widths is None else MentionedRegions(*region_widths)

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._tokenizer, self._data = tokenizer, data

    def scores(
        self, model: VisionLanguageModel, features: Features, batch: Batch, asked: Asked
    ) -> Float[Tensor, "n k"]:
        """Of each response to its query; equal responses to a query have equal scores."""
        if not bool(asked.responses.mask.any(-1).all()):
            raise UserError(
                "vcr: a question has fewer answers or rationales than another one: give all of them as many"
            )
        if self.kind == "head":
            return self._head_scores(model, features, batch, asked)
        return self._log_likelihoods(model, features, batch, asked)[0]

    def _head_scores(
        self, model: VisionLanguageModel, features: Features, batch: Batch, asked: Asked
    ) -> Float[Tensor, "n k"]:
        count = asked.responses.ids.shape[1]
        text = self._join(model, each_with_all(asked.queries, asked.responses))
        owner, rationale = (repeat(rows, "n -> (n k)", k=count) for rows in (asked.owner, asked.rationale))
        distinct, position = torch.arange(len(owner), device=owner.device), slice(None)
        if not self.training:  # a text that is there twice is fused once
            first = first_equal_texts(text, torch.stack([owner, rationale], dim=1))
            distinct, position = (index.to(owner.device) for index in first.unique(return_inverse=True))
        pooled = self._fuse(model, features, batch, text.select(distinct), owner[distinct]).pooled
        values = torch.cat(
            [apply_head(require(head), pooled) for head in (self.answer_head, self.rationale_head)], dim=1
        )
        scores = values.gather(1, rationale[distinct][:, None])[:, 0]
        return rearrange(scores[position], "(n k) -> n k", k=count)

    def _log_likelihoods(
        self, model: VisionLanguageModel, features: Features, batch: Batch, asked: Asked
    ) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """Scores, the responses' losses (the sum over their tokens), and how many tokens these are sums of."""
        rows, count = asked.responses.ids.shape[:2]
        no_prompt = torch.zeros(0, dtype=torch.int64, device=asked.owner.device)
        text = add_prompt_and_end(asked.responses, no_prompt, self._tokenizer.end_id)
        memory = self._fuse(model, features, batch, asked.queries, asked.owner)
        losses, tokens = token_losses(model.decode(text, memory), text).sum(1), text.mask[:, 1:].sum(1)
        if not self.training:
            losses = losses[
                first_equal_texts(text, repeat(torch.arange(rows), "n -> (n k) 1", k=count)).to(losses.device)
            ]
        losses, tokens = (rearrange(values, "(n k) -> n k", k=count) for values in (losses, tokens))
        return -losses / tokens**self.length_exponent, losses, tokens

    def _fuse(
        self, model: VisionLanguageModel, features: Features, batch: Batch, text: Text, owner: Int[Tensor, " r"]
    ) -> Tokens:
        """Text i with image owner[i]."""
        memory: CrossAttentionCache | Tokens | None = features.memory
        assert memory is not None
        tokens = model.encode_text(text)
        if self.regions is not None:
            tokens = self.regions(tokens, text, require(features.image), batch.boxes, owner)
        return model.fuse(tokens, memory.select(owner))

    def _join(self, model: VisionLanguageModel, parts: Sequence[Text]) -> Text:
        tokenizer, limit = self._tokenizer, model.part("text").context_length
        return join_texts(parts, starts=tokenizer.add_start, limit=limit, truncate=tokenizer.truncate)

    def _ask(self, model: VisionLanguageModel, batch: Batch, label: Int[Tensor, " b"]) -> tuple[Asked, Asked]:
        """For the answers, and for the rationales given the answer with this index."""
        question, choices, rationales = require(batch.question), require(batch.choices), require(batch.rationales)
        rows = torch.arange(len(batch), device=label.device)
        with_answer = self._join(model, (question, choose_response(choices, label)))
        return (
            Asked(queries=question, responses=choices, owner=rows, rationale=torch.zeros_like(rows)),
            Asked(queries=with_answer, responses=rationales, owner=rows, rationale=torch.ones_like(rows)),
        )

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        label, reason = self._labels(batch)
        both = self._ask(model, batch, label.clamp(min=0))
        asked = Asked(
            queries=concatenate_rows([one.queries for one in both]),
            responses=stack_responses([one.responses for one in both]),
            owner=torch.cat([one.owner for one in both]),
            rationale=torch.cat([one.rationale for one in both]),
        )
        right = torch.cat([label, reason.where(label >= 0, -1)])
        known = right >= 0
        likelihood = torch.zeros((), device=label.device)
        if self.kind == "head":
            scores = self._head_scores(model, features, batch, asked)
        else:
            scores, losses, tokens = self._log_likelihoods(model, features, batch, asked)
            if self.likelihood_weight:
                own = right.clamp(min=0)[:, None]
                value = (losses.gather(1, own)[:, 0] * known).sum()
                likelihood = mean_over_ranks(value, (tokens.gather(1, own)[:, 0] * known).sum())
        parts = {
            name: classification_loss(scores[chosen], right[chosen])
            for name, chosen in (
                ("answer", known & (asked.rationale == 0)),
                ("rationale", known & (asked.rationale == 1)),
            )
        }
        logs = {f"{name}_{key}": value for name, part in parts.items() for key, value in part.logs.items()}
        value = parts["answer"].value + parts["rationale"].value + self.likelihood_weight * likelihood
        return Loss(value=value, logs=logs)

    def _labels(self, batch: Batch) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Of the right answer and of its rationale, -1 where unknown."""
        if batch.label is None or batch.rationale_label is None:
            raise UserError(
                "vcr is trained on questions whose right answer and rationale are known, and these have none"
            )
        return batch.label, batch.rationale_label

    def reset(self) -> None:
        self._credits: list[Float[Tensor, "_ 2"]] = []  # of answer and rationale
        self._seen = 0
        self._rows: list[tuple[int, list[str]]] = []  # of the leaderboard's file, by sample

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        self._seen += len(batch)
        unknown = torch.full_like(batch.sample, -1)
        label = unknown if batch.label is None else batch.label
        reason = unknown if batch.rationale_label is None else batch.rationale_label
        known = (label >= 0) & (reason >= 0)
        if self.results_file is not None:
            answers, rationales = self.all_scores(model, batch, features)
            given_right = rationales[torch.arange(len(batch), device=label.device), label.clamp(min=0)]
            self._rows += [
                (int(sample), leaderboard_row(self._annotation_id(int(sample)), own, reasons))
                for sample, own, reasons in zip(batch.sample, *_probabilities(answers, rationales), strict=True)
            ]
        elif bool(known.any()):
            answers, given_right = self._measured_scores(model, batch, features, label.clamp(min=0))
        if bool(known.any()):
            scores = (
                require_finite(answers, "scores of the answers"),
                require_finite(given_right, "scores of the rationales"),
            )
            credits = [
                choice_credit(values[known].cpu(), right[known].cpu())
                for values, right in zip(scores, (label, reason), strict=True)
            ]
            self._credits.append(torch.stack(credits, dim=1))

    def _annotation_id(self, sample: int) -> str:
        named = getattr(self._data, "annotation_id", None)
        return str(sample) if named is None else named(self.split, sample)

    def _measured_scores(
        self, model: VisionLanguageModel, batch: Batch, features: Features, label: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Of the answers, and of the rationales given the right answer."""
        answers, rationales = self._ask(model, batch, label)
        return self.scores(model, features, batch, answers), self.scores(model, features, batch, rationales)

    def all_scores(
        self, model: VisionLanguageModel, batch: Batch, features: Features
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k r"]]:
        """Of the answers, and of the rationales given each of the answers: of five passes none knows which answer is right."""
        question, choices, rationales = require(batch.question), require(batch.choices), require(batch.rationales)
        rows, count = torch.arange(len(batch), device=question.ids.device), choices.ids.shape[1]
        owner = repeat(rows, "b -> (b k)", k=count)
        with_answers = self._join(model, each_with_all(question, choices))
        asked = (
            Asked(queries=question, responses=choices, owner=rows, rationale=torch.zeros_like(rows)),
            Asked(
                queries=with_answers, responses=rationales.select(owner), owner=owner, rationale=torch.ones_like(owner)
            ),
        )
        answers, reasons = (self.scores(model, features, batch, one) for one in asked)
        return answers, rearrange(reasons, "(b k) r -> b k r", k=count)

    def left_out(self) -> int:
        """Questions whose answer or rationale is unknown, unless all are (the test server's)."""
        counted = sum(map(len, self._credits))
        return self._seen - counted if counted else 0

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """answer (Q→A), rationale (QA→R) and answer_and_rationale (Q→AR); of questions without labels only their number."""
        device = next(model.parameters()).device
        credits = distributed.gather(
            torch.cat([torch.zeros(0, 2, dtype=torch.float64), *self._credits]).to(device)
        ).cpu()
        seen = distributed.sum_over_ranks(torch.tensor([self._seen], device=device))
        rows = sorted(distributed.gather_lists(self._rows))
        if self.results_file is not None:
            write_leaderboard(self.results_file, [row for _, row in rows])
        figures: dict[str, float | None] = {"questions": float(seen[0])}
        return figures | (reasoning_accuracy(*credits.unbind(1)) if len(credits) else {})

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """Of each answer its probability, and of each rationale its probability given each answer; the answer with the highest, and
        the rationale with the highest given that answer."""
        image = model.encode_image(require(batch.image))
        features = Features(image=image, memory=model.project_memory(image))
        answers, rationales = _probabilities(*self.all_scores(model, batch, features))
        records = []
        for sample, own, reasons in zip(batch.sample.tolist(), answers, rationales, strict=True):
            best = own.index(max(own))
            records.append(
                {
                    "sample": sample,
                    "answer": best,
                    "rationale": reasons[best].index(max(reasons[best])),
                    "answer_probability": own,
                    "rationale_probability": reasons,
                }
            )
        return records


def _probabilities(
    answers: Float[Tensor, "b k"], rationales: Float[Tensor, "b k r"]
) -> tuple[list[list[float]], list[list[list[float]]]]:
    answers, rationales = (
        require_finite(answers, "scores of the answers"),
        require_finite(rationales, "scores of the rationales"),
    )
    return answers.double().softmax(-1).tolist(), rationales.double().softmax(-1).tolist()
