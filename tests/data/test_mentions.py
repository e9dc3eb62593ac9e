"""Which boxes each token mentions: by hand, in texts of several tokens a word, and with what cannot be said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.words import WordTokenizer
from vlp.data.collate import Collate, LoadedExample, tokenize_rows
from vlp.data.mentions import add_regions
from vlp.structures import Sample, Tag
from vlp.system.errors import UserError
from vlp.tokenizers.trained import TrainedTokenizer

TOKENIZER = WordTokenizer()


def sample(index: int = 0, tags: tuple[Tag, ...] = (), **fields: object) -> Sample:
    texts = {
        "question": "is the circle red",
        "choices": ("yes", "the square"),
        "rationales": ("the circle is red", "no"),
    }
    return Sample(id=index, sample=index, image=Path("a.png"), tags=tags, **texts | fields)


def test_tokens_of_a_tag_name_its_boxes() -> None:
    """Start tokens count; the second rationale is text 4, and a tag that points to nothing names nothing."""
    tags = (Tag(0, 7, 13, (2,)), Tag(2, 0, 10, (0, 1)), Tag(3, 4, 10, (2,)), Tag(4, 0, 2, ()))
    samples = [sample(0, tags), sample(1)]
    texts = [TOKENIZER([one.question for one in samples])]
    texts += [tokenize_rows(TOKENIZER, [getattr(one, name) for one in samples]) for name in ("choices", "rationales")]
    question, choices, rationales = add_regions(TOKENIZER, samples, *texts)
    assert question.regions[0].tolist() == [[-1, -1]] * 3 + [[2, -1]] + [[-1, -1]] * 2
    assert choices.regions[0, 1].tolist() == [[-1, -1], [0, 1], [0, 1], [-1, -1]]
    assert int((choices.regions[0, 0] >= 0).sum()) == 0
    assert rationales.regions[0, 0, :, 0].tolist() == [-1, -1, 2, -1, -1, -1]
    assert int((rationales.regions[0, 1] >= 0).sum()) == 0
    assert int((question.regions[1] >= 0).sum()) == 0


def test_words_of_several_tokens() -> None:
    tokenizer = TrainedTokenizer(size=270, context_length=40)
    tokenizer.train(["is riley red"])
    text = "Is Riley's friend red?"
    one = sample(0, (Tag(0, 3, 8, (1,)),), question=text)
    question, _, _ = add_regions(tokenizer, [one], tokenizer([text]), None, None)
    mentioned = question.regions[0, :, 0] == 1
    assert tokenizer.decode(question.ids[0][mentioned]) == "riley"


def test_a_token_across_the_border_of_a_tag_is_said() -> None:
    class Whole(WordTokenizer):
        def encode(self, texts: list[str]) -> list[list[int]]:
            return [[10 + len(text)] for text in texts]

    with pytest.raises(UserError, match=r"'circle' and what stands beside it .* data\.regions=false"):
        add_regions(Whole(), [sample(0, (Tag(0, 7, 13, (0,)),))], TOKENIZER(["is the circle red"]), None, None)


def test_batches_have_regions_where_they_are_asked_for() -> None:
    fields = frozenset(("question", "choices", "rationales"))
    pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)
    example = LoadedExample(sample=sample(0, (Tag(0, 7, 13, (2,)),)), seed=0, pixels=pixels, captions=())
    for regions in (False, True):
        batch = Collate(tokenizer=TOKENIZER, available_fields=fields, classes=0, training=False, regions=regions)(
            [example]
        )
        assert (batch.question.regions is not None) == regions
        assert (batch.rationales.regions is not None) == regions
