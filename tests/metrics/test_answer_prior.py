"""The answer prior: the most frequent training answer to each kind of question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlp.metrics.answer_prior import AnswerPrior
from vlp.structures import Sample


def sample(question: str, *answers: str, **fields: Any) -> Sample:
    return Sample(id=0, sample=0, image=Path("0.png"), question=question, answers=answers, **fields)


def test_by_question_type_or_the_first_two_words() -> None:
    prior = AnswerPrior(
        [
            sample("How many dogs?", "2", "two", "3", "3"),
            sample("how many cats?", "3", "2"),
            sample("Is it red?", "Yes.", "yes", "no", question_type="is it"),
            sample("Is it big?", *["no"] * 3, question_type="is it"),
        ]
    )
    assert prior(sample("How many birds are there?")) == "2"
    assert prior(sample("what?", question_type="is it")) == "no"


def test_of_a_kind_that_was_never_seen_the_most_frequent_of_all() -> None:
    prior = AnswerPrior([sample("is it a dog?", "yes", "yes"), sample("what is it?", "dog")])
    assert prior(sample("where is it?")) == "yes"


def test_without_answers_there_is_none() -> None:
    assert not AnswerPrior([sample("where?")])
