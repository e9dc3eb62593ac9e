"""BLEU is sacrebleu's own, from its command line as from here; intervals; colours in their order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlp.metrics.translation import TranslationScores, bleu_of_statistics, resampled_bleu, right_colours, with_interval

REFERENCES = ["Ein Mann steht auf der Straße.", "Zwei rote Hunde spielen, sie bellen!", "Das Kind isst Eis am Meer."]
TEXTS = ["ein Mann steht auf einer Straße.", "Zwei blaue Hunde spielen, sie bellen!", "Das Kind isst ein Eis."]


@pytest.mark.parametrize("lowercase", [False, True])
def test_the_number_of_sacrebleus_command_line_with_its_signature(lowercase: bool, tmp_path: Path) -> None:
    for name, lines in (("reference", REFERENCES), ("texts", TEXTS)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "reference", "-i", "texts", "-w", "4", "-f", "text"]
    command += ["-lc"] if lowercase else []
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    scores = TranslationScores(lowercase=lowercase)
    signature = scores.signatures()["bleu_signature"]
    assert printed.startswith(f"BLEU|{signature} = {scores.bleu(TEXTS, REFERENCES):.4f} ")
    assert f"case:{'lc' if lowercase else 'mixed'}|eff:no|tok:13a|smooth:exp|version:" in signature


def test_chrf_of_equal_texts_and_its_signature() -> None:
    scores = TranslationScores()
    assert scores.chrf(TEXTS, TEXTS) == pytest.approx(100)
    assert 50 < scores.chrf(TEXTS, REFERENCES) < 90
    assert "nc:6|nw:0" in scores.signatures()["chrf_signature"]


def test_statistics_of_sentences_add_up_to_the_corpus() -> None:
    scores = TranslationScores()
    statistics = scores.statistics(TEXTS, REFERENCES)
    assert bleu_of_statistics(statistics.sum(0)) == pytest.approx(scores.bleu(TEXTS, REFERENCES))
    # "Das Kind isst ein Eis ." against "Das Kind isst Eis am Meer .": 5 of 6 words, 2 of 5 pairs, 1 of 4, 0 of 3
    assert statistics[2].tolist() == [5, 2, 1, 0, 6, 5, 4, 3, 6, 7]


def test_an_interval_contains_the_figure_and_groups_stay_together() -> None:
    scores = TranslationScores()
    statistics = scores.statistics(TEXTS * 8, REFERENCES * 8)
    resamples = resampled_bleu(statistics, torch.arange(24), draws=200)
    figures = with_interval("bleu", bleu_of_statistics(statistics.sum(0)), resamples)
    assert figures["bleu_low"] < figures["bleu"] < figures["bleu_high"]
    equal = resampled_bleu(statistics, torch.arange(8).repeat_interleave(3), draws=20)
    assert equal.std() < 1e-9, "eight pictures with the same three sentences: every resample is the same corpus"
    assert with_interval("bleu", 1.0, None) == {"bleu": 1.0, "bleu_low": None, "bleu_high": None}


def test_colours_are_right_in_their_order() -> None:
    references = ["ein roter Kreis über einem blauen Stern", "ein Kreis", "zwei rosafarbene Herzen"]
    assert right_colours(references, references, "de") == (3, 3)
    exchanged = ["ein blauer Kreis über einem roten Stern", "ein grüner Kreis", "zwei Herzen"]
    assert right_colours(exchanged, references, "de") == (0, 3)
    assert right_colours(["der rote Kreis über dem Stern", "", ""], references, "de") == (1, 3)


def test_an_unknown_tokenization() -> None:
    with pytest.raises(ValueError, match=r"tasks\.translation\.tokenize=moses: choose from 13a"):
        TranslationScores(tokenize="moses")
