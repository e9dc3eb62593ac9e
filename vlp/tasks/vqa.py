"""Visual question answering: a classifier over an answer vocabulary, or a decoder that ranks answers or writes them.

Classifier: Kim et al., arXiv:2102.03334 (ViLT; vilt/modules/objectives.py). Decoder: Li et al., arXiv:2107.07651, §4 (ALBEF;
models/model_vqa.py) and arXiv:2201.12086 (BLIP; models/blip_vqa.py), where the question that has seen the image is the
decoder's memory. The figure is the official accuracy (`vlp.metrics.vqa_accuracy`), in percent.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp import distributed
from vlp.data.answers import read_answers
from vlp.distributed import joint_mean
from vlp.metrics.answer_prior import AnswerPrior
from vlp.metrics.vqa_accuracy import summarise_accuracy, vqa_accuracy
from vlp.models.equal_inputs import content_keys, first_equal
from vlp.models.generation import Rules, beam_search
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import ramp
from vlp.objectives.lm import token_losses
from vlp.structures import Batch, Features, Image, Loss, Memory, Momentum, Sample, Text, Tokens
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.tokenizers.base import Tokenizer
from vlp.tokenizers.vqa_normalisation import normalise_answer

KINDS = ("classify", "rank", "generate")
ROWS = 1024  # answers that are scored at a time
SHOWN = 12  # questions that figures() holds
Answers = list[list[tuple[str, float]]]


def rank_answers(
    model: VisionLanguageModel,
    question: Tokens,
    answers: Text,
    *,
    candidates: int = 128,
    first_token_twice: bool = False,
    label_smoothing: float = 0.0,
) -> tuple[Int[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Which of `answers` the decoder holds for the best, best first, with their scores (log-probabilities).

    The `candidates` whose first token is the most probable are scored in full. first_token_twice: ALBEF adds the first
    token's log-probability to that of the whole answer, which has it already. label_smoothing: BLIP ranks by its
    smoothed training loss.
    """
    decoder, questions = model.part("decoder"), len(question.states)
    memory: Memory = decoder.remember(question)
    first, _ = decoder.step(answers.ids[:1, :1].expand(questions, 1), decoder.start(memory))
    first = first.log_softmax(1)[:, answers.ids[:, 1]]
    first, index = (x[:, :candidates] for x in first.sort(dim=1, descending=True, stable=True))
    scores, at_once = [], max(1, ROWS // index.shape[1])
    for start in range(0, questions, at_once):
        part = slice(start, start + at_once)
        text = answers.select(index[part].flatten())
        loss = token_losses(decoder(text, memory.select(part)), text, label_smoothing=label_smoothing)
        scores.append(-loss.sum(1).view(-1, index.shape[1]))
    score = torch.cat(scores) + (first if first_token_twice else 0)
    equal = first_equal(content_keys(answers))[index.cpu()].to(index.device)  # "[UNK]" is the text of many answers
    score = score.gather(1, (equal[:, :, None] == equal[:, None, :]).int().argmax(2))
    score, order = score.sort(dim=1, descending=True, stable=True)
    return index.gather(1, order), score


class VQA(Task):
    """kind: "classify", "rank" or "generate"; None = classify where a width is given, else rank.
    answers: a list or a published label map (JSON) of what is classified or ranked; None = the data's own vocabulary, to
    rank.  width: of the fusion's pooled state, for the classifier.

    Of the decoder: label_smoothing (BLIP: 0.1); distillation: α of the momentum copy's soft targets, reached linearly over
    `distillation_warmup` steps (ALBEF: 0.4); candidates, first_token_twice: see `rank_answers`; max_length: of a written
    answer in tokens, start and end included.  results_file: where the answers are written as EvalAI takes them.
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
        self.answers = read_answers(Path(answers)) if isinstance(answers, (str, Path)) else tuple(answers or ())
        self.label_smoothing, self.beams, self.max_length = label_smoothing, beams, max_length
        self.distillation, self.distillation_warmup = distillation, distillation_warmup
        self.candidates, self.first_token_twice = candidates, first_token_twice
        self.results_file = None if results_file is None else Path(results_file)
        self.needs: tuple[str, ...] = ("vision", "text", "fusion")
        self.uses: tuple[str, ...] = ("memory", "momentum.memory") if distillation else ("memory",)
        self.classifier = self._classifier(width) if self.kind == "classify" else None
        if self.classifier is None:
            self.needs += ("decoder",)
        elif distillation:
            raise UserError("tasks.vqa.distillation is the decoder's: set it to 0 for a classifier")
        self._names: tuple[str, ...] = self.answers
        self._priors: dict[str, AnswerPrior | None] = {}  # by data set

    def _classifier(self, width: int | None) -> nn.Sequential:
        if width is None or not self.answers:
            raise UserError("a VQA classifier needs tasks.vqa.width and tasks.vqa.answers, a list or a JSON label map")
        return nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.LayerNorm(2 * width),
            nn.GELU(),
            nn.Linear(2 * width, len(self.answers)),
        )

    def architecture(self) -> dict[str, list[str]]:
        """What a config may have left to a file or to the data."""
        return {"answers": list(self.answers or self._names)}

    def applies(self, batch: Batch, source: str) -> bool:
        """Not to sentences of visual entailment, which are questions too."""
        taught = (batch.answer if self.classifier is None else batch.scores) is not None
        return super().applies(batch, source) and (taught or (batch.raw is not None and batch.label is None))

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._tokenizer = tokenizer
        self._data = data
        if self.kind == "generate":
            return
        self._names = self.answers or tuple(getattr(data, "answer_names", None) or ()) or self._names
        if self.classifier is not None and getattr(data, "answer_names", None) not in (None, self.answers):
            raise UserError(
                f"tasks.vqa.answers ({len(self.answers)}) is not the answer vocabulary of the data ({len(data.answer_names)}), "
                "whose scores it would be trained on: set data.answer_vocabulary to the same label map"
            )

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        fused = _fused(model, batch, features)
        if self.classifier is not None:
            return self._classification_loss(fused, batch)
        assert batch.answer is not None
        assert batch.answer_weight is not None
        text, slow = Text(ids=batch.answer.ids.flatten(0, 1), mask=batch.answer.mask.flatten(0, 1)), None
        if self.distillation:
            assert features.momentum is not None
            copy: VisionLanguageModel = features.momentum.twin(model)
            with torch.no_grad():
                slow = copy.decode(text, _fused(copy, batch, features.momentum))
        losses = token_losses(
            model.decode(text, fused),
            text,
            label_smoothing=self.label_smoothing,
            slow=slow,
            alpha=ramp(self.distillation, features.step, self.distillation_warmup),
        )
        return Loss(value=joint_mean((losses.sum(1) * batch.answer_weight.flatten()).sum(), len(batch)))

    def _classification_loss(self, fused: Tokens, batch: Batch) -> Loss:
        """The sum over answers, the mean over questions."""
        assert self.classifier is not None
        assert batch.scores is not None
        logits = self.classifier(fused.pooled)
        losses = F.binary_cross_entropy_with_logits(logits, batch.scores, reduction="sum")
        right = batch.scores.gather(1, logits.argmax(1, keepdim=True)).sum()
        return Loss(value=joint_mean(losses, len(batch)), logs={"accuracy": 100 * joint_mean(right, len(batch))})

    def reset(self) -> None:
        self._asked: list[Sample] = []
        self._answered: list[str] = []
        self._figures: dict[str, object] = {}

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if batch.raw is None:
            raise UserError("vqa compares with people's answers: it needs batches with `raw` samples")
        self._asked += batch.raw
        found = self._answers(model, self._tokenizer, _fused(model, batch, features), self._names, shown=1)
        self._answered += [best[0][0] for best in found]

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        """accuracy and accuracy_<answer type>, and those of the best answer prior; without people's answers (test
        servers) only the number of questions."""
        given = [zip(*part, strict=True) for part in distributed.gather_objects((self._asked, self._answered))]
        pairs = sorted(chain.from_iterable(given), key=lambda pair: pair[0].sample)  # the same for any number of ranks
        asked, answered = [sample for sample, _ in pairs], [answer for _, answer in pairs]
        if self.results_file is not None and distributed.rank() == 0:
            self.results_file.parent.mkdir(parents=True, exist_ok=True)
            records = [{"question_id": s.sample, "answer": a} for s, a in zip(asked, answered, strict=True)]
            self.results_file.write_text(json.dumps(records))
        self._figures = {"samples": list(zip(asked, answered, strict=True))[:SHOWN]}
        known = [(sample, answer) for sample, answer in zip(asked, answered, strict=True) if sample.answers]
        figures = {"questions": float(len(asked))}
        if known:
            kinds = [sample.answer_type for sample, _ in known]
            types = [kind for kind in kinds if kind is not None]
            scores = [_accuracy(answer, sample.answers) for sample, answer in known]
            figures |= summarise_accuracy(scores, types if len(types) == len(kinds) else None)
            prior = self._learn_prior()
            if prior:
                scores = [_accuracy(prior(sample), sample.answers) for sample, _ in known]
                figures["prior_accuracy"] = summarise_accuracy(scores)["accuracy"]
        return figures

    def _learn_prior(self) -> AnswerPrior | None:
        """None, with a warning, where the training questions are not on this machine."""
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

    def figures(self) -> dict[str, object]:
        """samples: the first few questions, as pairs of a sample and the model's answer."""
        return self._figures

    def lacking(self, data: Any) -> str | None:
        chosen = self.kind == "generate" or self.answers or data.answer_names
        return None if chosen else "candidate answers to choose from: give --answer TEXT for each"

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """As EvalAI takes them: question_id and answer."""
        assert batch.image is not None
        assert batch.question is not None
        found = self.answer(model, self._tokenizer, batch.image, batch.question, names=self._names)
        return [
            {"question_id": question, "answer": best[0][0]}
            for question, best in zip(batch.sample.tolist(), found, strict=True)
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
        shown: int = 5,
    ) -> Answers:
        """The best `shown` answers to question i about image i with their probabilities: of each answer on its own
        (classify), among the candidates (rank), or of the one that was written (generate).

        names: the answers to rank, if not the task's own.
        """
        fused = model.fuse(model.encode_text(question), model.remember(model.encode_image(image)))
        return self._answers(model, tokenizer, fused, names or self.answers, shown=shown)

    def _answers(
        self, model: VisionLanguageModel, tokenizer: Tokenizer, fused: Tokens, names: Sequence[str], *, shown: int
    ) -> Answers:
        if self.kind == "generate":
            return self._written(model, tokenizer, fused)
        if self.classifier is not None:
            names = self.answers
            score, index = self.classifier(fused.pooled).sigmoid().sort(dim=1, descending=True, stable=True)
        else:
            if not names:
                raise UserError("vqa has no answers to rank: set tasks.vqa.answers, or tasks.vqa.kind=generate")
            text = tokenizer(list(names), kind="answer").to(fused.states.device)
            options = {"candidates": self.candidates, "first_token_twice": self.first_token_twice}
            index, score = rank_answers(model, fused, text, label_smoothing=self.label_smoothing, **options)  # type: ignore[arg-type]
            score = score.softmax(1)
        return [
            [(names[place], value) for place, value in zip(*row, strict=True)]
            for row in zip(index[:, :shown].tolist(), score[:, :shown].tolist(), strict=True)
        ]

    def _written(self, model: VisionLanguageModel, tokenizer: Tokenizer, fused: Tokens) -> Answers:
        decoder, rows = model.part("decoder"), len(fused.states)
        rules = Rules(end_id=tokenizer.end_id, pad_id=tokenizer.pad_id, max_length=self.max_length)
        start = torch.full((rows, 1), tokenizer.start_id, device=fused.states.device)
        memory = decoder.remember(fused)
        ids = beam_search(decoder.step, decoder.start(memory), start, rules, beams=self.beams)
        ends = (ids == rules.end_id).int().cumsum(1)
        text = Text(ids=ids, mask=(ends == 0) | ((ids == rules.end_id) & (ends == 1)))
        probability = (-token_losses(decoder(text, memory), text).sum(1)).exp().tolist()
        return [[(tokenizer.decode(row), value)] for row, value in zip(ids.tolist(), probability, strict=True)]


def _accuracy(answer: str, answers: Sequence[str]) -> float:
    """The official one; against a lone annotator (Visual Genome), which it does not know, whether the answers are equal."""
    if len(answers) > 1:
        return vqa_accuracy(answer, answers)
    return float(normalise_answer(answer) == normalise_answer(answers[0]))


def _fused(model: VisionLanguageModel, batch: Batch, features: Features | Momentum) -> Tokens:
    assert batch.question is not None
    assert features.memory is not None
    return model.fuse(model.encode_text(batch.question), features.memory)
