"""Cloze: the guess from neighbours, the masked words, and what counts as right."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

from tests.towers import toy_model
from vlp.structures import Batch, Blank, Features, Image, Sample, Tokens
from vlp.tasks.cloze import Cloze, NeighbourBaseline
from vlp.tokenizers.trained import TrainedTokenizer

CAPTIONS = ["a red circle above a blue box", "a red square", "a green circle"] * 20


def test_neighbours_guess_the_most_frequent_word_between_them() -> None:
    guess = NeighbourBaseline(iter(["a red circle", "a red circle", "a blue circle", "one blue box"])).guess
    assert guess("a ", " circle") == "red"
    assert guess("one ", " box") == "blue"
    assert guess("", "") in ("red", "blue", "circle", "a")


def test_right_words_are_counted_by_kind() -> None:
    tokenizer = TrainedTokenizer(size=300, context_length=20)
    tokenizer.train(CAPTIONS)
    asked = (Blank(caption=0, start=2, end=5, words=("red", "crimson"), kind="colour"),
             Blank(caption=0, start=6, end=12, words=("circle",), kind="shape"))  # fmt: skip
    assert [CAPTIONS[0][blank.start : blank.end] for blank in asked] == ["red", "circle"]
    sample = Sample(id=0, sample=0, image=Path("x"), captions=(CAPTIONS[0],), blanks=asked)
    only = torch.zeros(1, dtype=torch.int64)
    image, caption = Image(pixels=torch.zeros(1, 3, 4, 4)), tokenizer([CAPTIONS[0]])
    batch = Batch(id=only, sample=only, seed=only, image=image, caption=caption, raw=(sample,))
    crimson = tokenizer.encode(["red"])[0]

    class Always:
        """A head that puts "red" into every blank."""

        @staticmethod
        def logits(model: object, text: object, memory: object, chosen: torch.Tensor) -> torch.Tensor:
            return torch.eye(300)[crimson[0]].repeat(int(chosen.sum()), 1)

    task = Cloze()
    task.reset()
    task.prepare(toy_model(), tokenizer, SimpleNamespace(name="toy", train_captions=lambda: iter(CAPTIONS)))
    task.linked = {"mlm": Always}
    memory = Tokens(states=torch.zeros(1, 2, 4), pooled=torch.zeros(1, 4))
    assert len(crimson) == 1
    task.update(toy_model(), batch, Features(memory=memory))
    figures = task.compute(toy_model())
    assert figures["accuracy_colour"] == 100
    assert figures["accuracy_shape"] == 0
    assert figures["accuracy"] == 50
    assert figures["text_only_accuracy_colour"] == 100
    assert task.applies(batch, "any")
    assert not task.applies(Batch(**{**vars(batch), "raw": None}), "any")
