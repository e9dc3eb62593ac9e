"""Pairs of English and German of generated scenes, and their masked colours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlp.data.colour_words import named_colours
from vlp.datasets.scenes_translation import SceneTranslations

IMAGES = {"train": 4, "restval": 2, "val": 2, "test": 2}


def translations(root: Path, loading: dict[str, Any], **changed: Any) -> SceneTranslations:
    data = SceneTranslations(root=root, images=IMAGES, size=32, **{**loading, "batch_size": 2, **changed})
    data.prepare_data()
    return data


def test_each_sentence_is_a_sample_whose_german_has_the_colours_that_its_english_lacks(
    tmp_path: Path, loading: dict[str, Any]
) -> None:
    masked = translations(tmp_path, loading, sentences=3)
    full = translations(tmp_path, loading, sentences=3, masked_colours=False, with_captions=True)
    assert len(masked.split("train")) == 3 * 6
    for split in ("train", "val", "test"):
        for hidden, shown in zip(masked.split(split), full.split(split), strict=True):
            assert hidden.sample == shown.sample
            assert hidden.answers == shown.answers
            assert not hidden.captions
            assert shown.captions == (shown.question,)
            colours = named_colours(shown.question or "", "en")
            assert named_colours(shown.answers[0], "de") == colours
            assert (hidden.question or "").count("[v]") == len(colours)
            assert named_colours(hidden.question or "", "en") == []
    assert len({sample.sample for sample in masked.split("train")}) == 18


def test_a_batch_of_translations(tmp_path: Path, loading: dict[str, Any]) -> None:
    data = translations(tmp_path, loading)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.pictured is None
    assert len(batch.image.pixels) == len(batch) == 2
    assert batch.answer.ids.shape[:2] == (2, 1)
    assert batch.label is None


def test_settings_and_files_of_another_version(tmp_path: Path, loading: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"data\.sentences=6: give a number from 1 to 5"):
        translations(tmp_path, loading, sentences=6)
    data = translations(tmp_path, loading)
    path = data.root / "dataset_coco.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["sentences"][0]["raw"] = "another caption"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has captions of another version of vlp"):
        translations(tmp_path, loading).split("val")
