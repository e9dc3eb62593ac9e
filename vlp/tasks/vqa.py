"""Visual question answering: a classifier over an answer vocabulary, or a decoder that ranks or generates answers.

Classifier: Kim et al., arXiv:2102.03334 (ViLT; vilt/modules/objectives.py). Decoder: Li et al., arXiv:2107.07651, §4 (ALBEF;
models/model_vqa.py) and arXiv:2201.12086 (BLIP; models/blip_vqa.py), where the states of question and image fused are the
decoder's memory. The figure is the official accuracy (`vlp.metrics.vqa_accuracy`), in percent.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp import distributed
from vlp.data.answers import read_answer_vocabulary
from vlp.distributed import mean_over_ranks
from vlp.metrics.answer_prior import AnswerPrior
from vlp.metrics.vqa_accuracy import answer_accuracy, summarise_accuracy
from vlp.models.equal_inputs import content_keys, first_equal_positions
from vlp.models.generation import GenerationRules, beam_search
from vlp.models.precision import apply_head
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import linear_warmup
from vlp.objectives.lm import token_losses
from vlp.structures import (
    Batch,
    CrossAttentionCache,
    Features,
    Image,
    Loss,
    Momentum,
    Sample,
    Text,
    Tokens,
    require,
    require_finite,
)
from vlp.system.errors import UserError
from vlp.tasks.base import Task, write_results
from vlp.tokenizers.base import Tokenizer

KINDS = ("classify", "rank", "generate")
ANSWERS_PER_STEP = 1024  # that the decoder scores at a time
EXAMPLES = 12  # questions that figures() returns
Answers = list[list[tuple[str, float]]]  # for each question, (answer, probability), the best first


def rank_answers(
    model: VisionLanguageModel,
    question: Tokens,
    answers: Text,
    *,
    candidates: int = 128,
    first_token_twice: bool = False,
    label_smoothing: float = 0.0,
) -> tuple[Int[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Indices of `answers` for each question, the most probable first, and their scores (log-probabilities).

    Only the `candidates` with the most probable first tokens are scored in full. first_token_twice: ALBEF adds the first
    token's log-probability to that of the full answer, which includes it already. label_smoothing: BLIP ranks by its
    smoothed training loss.
    """
    decoder, questions = model.part("decoder"), len(question.states)
    memory: CrossAttentionCache = decoder.project_memory(question)
    first, _ = decoder.step(answers.ids[:1, :1].expand(questions, 1), decoder.empty_cache(memory))
    first = require_finite(first, "logits of the answers").log_softmax(1)[:, answers.ids[:, 1]]
    first, index = (x[:, :candidates] for x in first.sort(dim=1, descending=True, stable=True))
    scores, questions_per_step = [], max(1, ANSWERS_PER_STEP // index.shape[1])
    for start in range(0, questions, questions_per_step):
        part = slice(start, start + questions_per_step)
        text = answers.select(index[part].flatten())
        loss = token_losses(decoder(text, memory.select(part)), text, label_smoothing=label_smoothing)
        scores.append(-loss.sum(1).view(-1, index.shape[1]))
    score = require_finite(torch.cat(scores) + (first if first_token_twice else 0), "scores of the answers")
    equal = first_equal_positions(content_keys(answers))[index.cpu()].to(
        index.device
    )  # "[UNK]" is the text of many answers
    score = score.gather(1, (equal[:, :, None] == equal[:, None, :]).int().argmax(2))
    score, order = score.sort(dim=1, descending=True, stable=True)
    return index.gather(1, order), score


def generate_answers(
    model: VisionLanguageModel, tokenizer: Tokenizer, question: Tokens, *, beams: int, max_length: int
) -> Answers:
    """By beam search; with its probability, the product over its tokens."""
    decoder, rows = model.part("decoder"), len(question.states)
    rules = GenerationRules(end_id=tokenizer.end_id, pad_id=tokenizer.pad_id, max_length=max_length)
    start = torch.full((rows, 1), tokenizer.start_id, device=question.states.device)
    memory = decoder.project_memory(question)
    ids = beam_search(decoder.step, decoder.empty_cache(memory), start, rules, beams=beams)
    ends = (ids == rules.end_id).int().cumsum(1)
    text = Text(ids=ids, mask=(ends == 0) | ((ids == rules.end_id) & (ends == 1)))
    probability = (-token_losses(decoder(text, memory), text).sum(1)).exp().tolist()
    return [[(tokenizer.decode(row), value)] for row, value in zip(ids.tolist(), probability, strict=True)]


class VQA(Task):
    """kind: "classify", "rank" or "generate"; None = classify where a width is given, else rank.
    answers: the answers to classify or rank, as a list or a published label map (JSON); None = to rank, the vocabulary of
    the data set.  width: of the fusion's pooled state, for the classifier.

    Of the decoder: label_smoothing (BLIP: 0.1); distillation: α of the momentum model's soft targets, reached linearly over
    `distillation_warmup` steps (ALBEF: 0.4); candidates, first_token_twice: see `rank_answers`; max_length: of a generated
    answer in tokens, start and end included.  results_file: for the answers, in the format of EvalAI.
    """

    requires = ("image", "question")
    stored = ("width", "answers")

    def __init__(
        self,
        *,
        kind: str | None = None,
        answers: Sequence[str] | str | Path | None = None,
        width: int | None = None,
        label_smoothing: float = 0.0,
        distillation: float = 0.0,
        distillation_warmup: int = 0,
        candidates: int = 128,
        first_token_twice: bool = False,
        beams: int = 3,
        max_length: int = 10,
        results_file: str | Path | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if kind not in (None, *KINDS):
            raise UserError(f"unknown tasks.vqa.kind={kind!r}: choose one of {', '.join(KINDS)}")
        self.kind = kind or ("rank" if width is None else "classify")
        self.answers = (
            read_answer_vocabulary(Path(answers)) if isinstance(answers, (str, Path)) else tuple(answers or ())
        )
        self.label_smoothing, self.beams, self.max_length = label_smoothing, beams, max_length
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.candidates, self.first_token_twice = candidates, first_token_twice
        self.results_file = None if results_file is None else Path(results_file)
        self.needs: tuple[str, ...] = ("vision", "text", "fusion")
        self.uses: tuple[str, ...] = ("memory", "momentum.memory") if distillation else ("memory",)
        self.classifier = self._build_classifier(width) if self.kind == "classify" else None
        if self.classifier is None:
            self.needs += ("decoder",)
        elif distillation:
            raise UserError("tasks.vqa.distillation works with a decoder only: set it to 0 for a classifier")
        self._answer_names: tuple[str, ...] = self.answers
        self._priors: dict[str, AnswerPrior | None] = {}  # by data set

    def _build_classifier(self, width: int | None) -> nn.Sequential:
        if width is None or not self.answers:
            raise UserError("a VQA classifier needs tasks.vqa.width and tasks.vqa.answers, a list or a JSON label map")
        return nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.LayerNorm(2 * width),
            nn.GELU(),
            nn.Linear(2 * width, len(self.answers)),
        )

    def architecture(self) -> dict[str, list[str]]:
        """Arguments that a config may have left to a file or to the data set."""
        return {"answers": list(self.answers or self._answer_names)}

    def applies(self, batch: Batch, source: str) -> bool:
        """Not to sentences of visual entailment, which are questions too."""
        has_targets = (batch.answer if self.classifier is None else batch.scores) is not None
        asked = batch.label is None or batch.choices is not None
        return super().applies(batch, source) and (has_targets or (batch.raw is not None and asked))

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._tokenizer = tokenizer
        self._data = data
        if self.kind == "generate":
            return
        self._answer_names = self.answers or tuple(getattr(data, "answer_names", None) or ()) or self._answer_names
        if self.classifier is not None and getattr(data, "answer_names", None) not in (None, self.answers):
            raise UserError(
                f"tasks.vqa.answers ({len(self.answers)}) differs from the answer vocabulary of the data set "
                f"({len(data.answer_names)}), which its training scores refer to: set data.answer_vocabulary to the same label map"
            )

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        fused = _fuse_question(model, batch, features)
        if self.classifier is not None:
            return self._classification_loss(fused, batch)
        answer, answer_weight = require(batch.answer), require(batch.answer_weight)
        text = Text(ids=answer.ids.flatten(0, 1), mask=answer.mask.flatten(0, 1))
        momentum_logits = None
        if self.distillation:
            momentum = require(features.momentum)
            momentum_model: VisionLanguageModel = momentum.copy_of(model)
            with torch.no_grad():
                momentum_logits = momentum_model.decode(text, _fuse_question(momentum_model, batch, momentum))
        losses = token_losses(
            model.decode(text, fused),
            text,
            label_smoothing=self.label_smoothing,
            momentum_logits=momentum_logits,
            alpha=linear_warmup(self.distillation, features.step, self.distillation_warmup),
        )
        return Loss(value=mean_over_ranks((losses.sum(1) * answer_weight.flatten()).sum(), len(batch)))

    def _classification_loss(self, fused: Tokens, batch: Batch) -> Loss:
        """Binary cross-entropy: the sum over answers, the mean over questions."""
        scores = require(batch.scores)
        logits = require(self.classifier)(fused.pooled)
        value = F.binary_cross_entropy_with_logits(logits, scores, reduction="sum")
        value = mean_over_ranks(value, len(batch))
        accuracy = scores.gather(1, logits.argmax(1, keepdim=True)).sum()
        return Loss(value=value, logs={"accuracy": 100 * mean_over_ranks(accuracy, len(batch))})

    def reset(self) -> None:
        self._answered: list[tuple[Sample, str]] = []  # each question with the model's answer

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if batch.raw is None:
            raise UserError("vqa compares with people's answers: it needs batches with `raw` samples")
        fused = _fuse_question(model, batch, features)
        answers = self._best_answers(model, self._tokenizer, fused, self._answer_names, top_k=1)
        self._answered += [(sample, best[0][0]) for sample, best in zip(batch.raw, answers, strict=True)]

    def left_out(self) -> int:
        """Questions without people's answers, unless no question has any (test servers)."""
        without = sum(not sample.answers for sample, _ in self._answered)
        return without if without < len(self._answered) else 0

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """accuracy and accuracy_<answer type>, and those of the best answer prior; without people's answers (test
        servers) only the number of questions.  figures(): samples, the first few as (sample, answer of the model)."""
        answered: list[tuple[Sample, str]] = distributed.gather_lists(self._answered)
        answered.sort(key=lambda pair: pair[0].sample)  # the same for any number of ranks
        row_of = getattr(
            self._data, "result_row", lambda sample, answer: {"question_id": sample.sample, "answer": answer}
        )
        write_results(self.results_file, [row_of(sample, answer) for sample, answer in answered])
        self._figures = {"samples": answered[:EXAMPLES]}
        figures: dict[str, float | None] = {"questions": float(len(answered))}
        labelled = [(sample, answer) for sample, answer in answered if sample.answers]
        if labelled:
            types = [sample.answer_type for sample, _ in labelled if sample.answer_type is not None]
            scores = [answer_accuracy(answer, sample.answers) for sample, answer in labelled]
            figures |= summarise_accuracy(scores, types if len(types) == len(labelled) else None)
            if hasattr(self._data, "question_figures"):  # of a data set with figures of its own
                figures |= self._data.question_figures(labelled)
            prior = self._learn_prior()
            if prior:
                scores = [answer_accuracy(prior(sample), sample.answers) for sample, _ in labelled]
                figures["prior_accuracy"] = summarise_accuracy(scores)["accuracy"]
        return figures

    def _learn_prior(self) -> AnswerPrior | None:
        """Of the training questions, once for each data set; None, with a warning, where they are not on this machine."""
        name = self._data.name
        if name not in self._priors:
            self._priors[name] = None
            try:
                self._priors[name] = AnswerPrior(self._data.split("train"))
            except FileNotFoundError as error:
                warnings.warn(
                    f"no prior_accuracy, as the training questions of {name} cannot be read: {error}", stacklevel=2
                )
        return self._priors[name]

    def lacking(self, data: Any) -> str | None:
        has_candidates = self.kind == "generate" or self.answers or data.answer_names
        return None if has_candidates else "candidate answers to choose from: give --answer TEXT for each"

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """In the format of EvalAI: question_id and answer."""
        image, question = require(batch.image), require(batch.question)
        answers = self.answer(model, self._tokenizer, image, question, names=self._answer_names)
        return [
            {"question_id": question, "answer": best[0][0]}
            for question, best in zip(batch.sample.tolist(), answers, strict=True)
        ]

    @torch.no_grad()
    def answer(
        self,
        model: VisionLanguageModel,
        tokenizer: Tokenizer,
        image: Image,
        question: Text,
        *,
        names: Sequence[str] = (),
        top_k: int = 5,
    ) -> Answers:
        """The `top_k` best answers to question i about image i with their probabilities: independent ones (classify), among
        the candidates (rank), or of the only answer (generate).

        names: the answers to rank, if not the task's own.
        """
        fused = model.fuse(model.encode_text(question), model.project_memory(model.encode_image(image)))
        return self._best_answers(model, tokenizer, fused, names or self.answers, top_k=top_k)

    def _best_answers(
        self, model: VisionLanguageModel, tokenizer: Tokenizer, fused: Tokens, names: Sequence[str], *, top_k: int
    ) -> Answers:
        if self.kind == "generate":
            return generate_answers(model, tokenizer, fused, beams=self.beams, max_length=self.max_length)
        if self.classifier is not None:
            names = self.answers
            logits = require_finite(apply_head(self.classifier, fused.pooled), "logits of the answers")
            logits, index = logits.sort(
                dim=1, descending=True, stable=True
            )  # not of probabilities: those near 1 are equal
            score = logits.sigmoid()
        else:
            if not names:
                raise UserError("vqa has no answers to rank: set tasks.vqa.answers, or tasks.vqa.kind=generate")
            text = tokenizer(list(names), kind="answer").to(fused.states.device)
            options = {"candidates": self.candidates, "first_token_twice": self.first_token_twice}
            index, score = rank_answers(model, fused, text, label_smoothing=self.label_smoothing, **options)  # type: ignore[arg-type]
            score = score.softmax(1)
        return [
            [(names[position], value) for position, value in zip(*row, strict=True)]
            for row in zip(index[:, :top_k].tolist(), score[:, :top_k].tolist(), strict=True)
        ]


def _fuse_question(model: VisionLanguageModel, batch: Batch, features: Features | Momentum) -> Tokens:
    assert features.memory is not None
    return model.fuse(model.encode_text(require(batch.question)), features.memory)
