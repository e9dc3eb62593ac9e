from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from vlp.metrics.caption_metrics import bleu, caption_scores, cider_d, count_ngrams, lcs_length, rouge_l

NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"]
TEXTS = {1: "A red dog runs on grass.", 2: "Two cats sleep in their basket!", 3: "The old boat (blue) is on a lake"}


def test_identical_captions_score_full_marks() -> None:
    scores = caption_scores(TEXTS, {image: [text.upper(), text] for image, text in TEXTS.items()})
    assert list(scores) == NAMES
    assert scores == pytest.approx(dict.fromkeys(NAMES, 1.0) | {"cider_d": 10.0})


def test_disjoint_captions_score_nothing() -> None:
    scores = caption_scores(dict.fromkeys(TEXTS, "zebra umbrella"), {i: [text] for i, text in TEXTS.items()})
    assert scores == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=1e-6)


def test_empty_candidates_score_nothing() -> None:
    scores = caption_scores(dict.fromkeys(TEXTS, ""), {image: [text] for image, text in TEXTS.items()})
    assert scores == dict.fromkeys(NAMES, 0.0)


def test_cider_of_one_image_is_zero_because_every_word_is_in_all_images() -> None:
    assert cider_d({1: ["a", "dog"]}, {1: [["a", "dog"]]}) == {1: 0}


def test_bleu_clips_counts_at_the_most_of_one_reference() -> None:
    references = {1: [["the", "cat", "the", "mat"], ["the", "dog", "is", "there"]]}
    assert bleu({1: ["the"] * 4}, references)[0] == pytest.approx(2 / 4)


def test_brevity_penalty_takes_the_nearest_reference_and_of_two_the_shorter() -> None:
    words = list("abcdefgh")
    assert bleu({1: words[:4]}, {1: [words[:6]]})[0] == pytest.approx(math.exp(1 - 6 / 4))
    assert bleu({1: words[:4]}, {1: [words[:5], words]})[0] == pytest.approx(math.exp(1 - 5 / 4))
    assert bleu({1: words[:5]}, {1: [words[:4], words[:6]]})[0] == pytest.approx(1)


def test_bleu_pools_all_images_before_it_divides() -> None:
    candidates = {1: ["a"], 2: list("xxx")}
    assert bleu(candidates, {1: [["a"]], 2: [list("bcd")]})[0] == pytest.approx(1 / 4)


def test_rouge_takes_the_best_precision_and_the_best_recall_of_different_references() -> None:
    candidate, references = list("abcd"), [list("abcxyz"), ["a"]]
    precision, recall = 3 / 4, 1.0
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l({1: candidate}, {1: references})[1] == pytest.approx(expected)


def test_common_subsequence_equals_the_table() -> None:
    generator = random.Random(0)
    for _ in range(200):
        first, second = ([generator.choice("abcd") for _ in range(generator.randrange(12))] for _ in range(2))
        table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
        assert lcs_length(first, second) == table[-1][-1]


def test_cider_in_closed_form() -> None:
    """Two images; "dog" is in one of them (idf log 2), "a" in both (idf 0); "a dog" and its repeat differ in length."""
    candidates = {1: ["a", "dog", "dog"], 2: ["a", "cat"]}
    references = {1: [["a", "dog"]], 2: [["a", "cat"]]}
    scores = cider_d(candidates, references)
    assert scores[2] == pytest.approx(10 * (1 + 1) / 4)  # no 3-grams, no 4-grams
    unigrams, bigrams = 1 / 2, 1 / math.sqrt(2)  # clipped: min(2, 1)·1 / (2·1);  "a dog" of "a dog", "dog dog"
    assert scores[1] == pytest.approx(10 * (unigrams + bigrams) / 4 * math.exp(-1 / 72))


def test_ngrams_of_a_short_caption() -> None:
    assert count_ngrams(["a", "b", "a"]) == {
        ("a",): 2, ("b",): 1, ("a", "b"): 1, ("b", "a"): 1, ("a", "b", "a"): 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({}, {}, "no captions to score"),
        ({1: "a"}, {1: ["a"], 7: ["b"]}, "1 images have no candidate caption, for example image 7"),
        ({1: "a", 8: "b"}, {1: ["a"]}, "1 images have no references, for example image 8"),
        ({1: "a"}, {1: []}, "1 images have no references, for example image 1"),
    ],
)
def test_missing_captions_are_errors(candidates: Any, references: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        caption_scores(candidates, references)


def test_coco_evaluation(shared: Path) -> None:
    folder = shared / "reference/metrics"
    raw = json.loads((folder / "caption_raw.json").read_text())
    expected = json.loads((folder / "caption_expected.json").read_text())
    scores = caption_scores({image: captions[0] for image, captions in raw["hyp"].items()}, raw["gts"])
    corpus = [*expected["Bleu"]["corpus"], expected["ROUGE_L"]["corpus"], expected["CIDEr"]["corpus"]]
    assert scores == pytest.approx(dict(zip(NAMES, corpus, strict=True)), abs=1e-9)


def test_coco_evaluation_of_each_image(shared: Path) -> None:
    folder = shared / "reference/metrics"
    words = json.loads((folder / "caption_tokenized.json").read_text())
    expected = json.loads((folder / "caption_expected.json").read_text())
    order = expected["order"]
    candidates = {image: words["hyp"][image][0].split() for image in order}
    references = {image: [caption.split() for caption in words["gts"][image]] for image in order}
    for figures, name in ((rouge_l(candidates, references), "ROUGE_L"), (cider_d(candidates, references), "CIDEr")):
        assert [figures[image] for image in order] == pytest.approx(expected[name]["per_image"], abs=1e-9)
    for place, image in enumerate(order):
        alone = bleu({image: candidates[image]}, {image: references[image]})
        assert alone == pytest.approx([scores[place] for scores in expected["Bleu"]["per_image"]], abs=1e-9)
    three = cider_d({i: candidates[i] for i in order[:3]}, {i: references[i] for i in order[:3]})
    assert list(three.values()) == pytest.approx(expected["CIDEr_first3_images_only"]["per_image"], abs=1e-9)
