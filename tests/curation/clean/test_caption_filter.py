from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vlp.curation.clean.boilerplate import find_boilerplate
from vlp.curation.clean.clean import clean_data
from vlp.curation.clean.options import CleanOptions
from vlp.structures import Blank, Sample

OFF = CleanOptions(
    unreadable=False,
    min_side=0,
    max_aspect=0.0,
    evaluation=False,
    near_duplicates=False,
    duplicate_captions=False,
    min_words=0,
    max_words=0,
    min_letters=0.0,
    max_digits=0.0,
    max_repeated=0.0,
    max_run=0,
    addresses=False,
    file_names=False,
    caption_share=0.0,
    phrase_share=0.0,
)


def described(*captions: str, image: str = "no/such.jpg") -> Sample:
    return Sample(id=0, sample=0, image=Path(image), captions=captions)


def kept_captions(captions: tuple[str, ...], **options: Any) -> list[str]:
    kept, _ = clean_data({"train": [described(*captions)]}, replace(OFF, **options))
    return [caption for sample in kept["train"] for caption in sample.captions]


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ({"min_words": 3}, ["a brown dog", "狗在跑", "собака бежит быстро"], ["dog", "a dog", "🐕 🐕 🐕"]),
        ({"max_words": 4}, ["a dog runs fast", "well-known dog's bone here"], ["a dog runs very fast", "一只狗在跑"]),
        (
            {"min_letters": 0.6},
            ["a dog , a cat .", "कुत्ता दौड़ता है", "كلب يجري"],
            ["*** >>> 12 <<<", "a ----- ///// b", "№ 17 / 3 – 4"],
        ),
        ({"max_digits": 0.3}, ["player 23 of team 7 runs"], ["0012 4432 a1", "٣٤٥٦٧ كلب"]),
        (
            {"max_repeated": 0.6},
            ["a man in a shirt and a man in a hat", "dog dog"],
            ["dog dog dog dog dog cat", "buy now buy now buy now buy now"],
        ),
        (
            {"max_run": 5},
            ["sooooo good", "very very very good"],
            ["soooooo good", "a dog !!!!!!!", "go go go go go go"],
        ),
        (
            {"addresses": True},
            ["a dog. a cat", "he is at home", "3.5 metres of rope", "dr. com in a"],
            ["see https://x.y/z", "at www.shop.de", "mail me@site.example", "get it at photos.com now"],
        ),
        (
            {"file_names": True},
            ["a photo of p 3", "img of a dog", "size 1234", "PS4 1234"],
            ["IMG_1234", "dsc00012 at the beach", "holiday-2.JPG", "Screenshot_20240101"],
        ),
        ({"capitals": True}, ["A dog", "NASA", "狗 猫"], ["A DOG RUNS", "ÉTÉ À PARIS"]),
        ({"duplicate_captions": True}, ["a dog", "A dog"], []),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_caption_rule_keeps_the_good_and_drops_the_bad(
    option: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    assert kept_captions((*good, *bad), **option) == good
    assert kept_captions((*good, *bad)) == [*good, *bad]


def test_one_of_equal_captions_of_an_image_stays() -> None:
    assert kept_captions(("a dog", "a  dog", "a cat", "a dog"), duplicate_captions=True) == ["a dog", "a cat"]
    twice = [described("a dog"), described("a dog", "a cat")]  # two samples of one image
    kept, report = clean_data({"train": twice}, replace(OFF, duplicate_captions=True))
    assert [sample.captions for sample in kept["train"]] == [("a dog",), ("a cat",)]
    assert report.dropped["caption twice for one image"].count == 1


def website_captions(count: int) -> list[list[str]]:
    """Ordinary captions of which one in ten images has a boilerplate one."""
    kinds = ["dog", "cat", "horse", "bird", "child", "car", "boat"]
    captions = [[f"a {kinds[n % 7]} near the {kinds[n % 5]} in place {n}"] for n in range(count)]
    for n in range(0, count, 10):
        captions[n] = [f"Stock photo of {kinds[n % 7]} number {n}"]
        captions[n + 1] = [f"{kinds[n % 7]} {n} – all rights reserved"]
        captions[n + 2] = [f"on {n} click here to see more pictures like {n}"]
        captions[n + 3] = ["Image not available."]
    return captions


def test_boilerplate_is_found_and_common_words_are_not() -> None:
    boilerplate = find_boilerplate(website_captions(400), caption_share=0.01, phrase_share=0.02)
    assert boilerplate.is_common_caption("image not available")
    assert not boilerplate.is_common_caption("a dog")
    assert boilerplate.find_phrase("Stock photo of a zebra") == "stock photo of"
    assert boilerplate.find_phrase("zebra, all rights reserved!") == "all rights reserved"
    assert boilerplate.find_phrase("now click here to see more pictures like it") is not None
    assert boilerplate.find_phrase("a dog near the boat in place 7") is None
    assert boilerplate.find_phrase("a stock of photo paper") is None


def test_boilerplate_is_dropped_unless_switched_off() -> None:
    samples = [described(*captions, image=f"{n}.jpg") for n, captions in enumerate(website_captions(400))]
    kept, report = clean_data({"train": samples}, replace(OFF, caption_share=0.01, phrase_share=0.02))
    assert len(kept["train"]) == 400 - 160
    assert report.dropped["caption of many images"].count == 40
    assert report.dropped["phrase of many images in the caption"].count == 120
    assert report.phrases["stock photo of"] == 40
    assert len(clean_data({"train": samples}, OFF)[0]["train"]) == 400


def test_a_common_way_to_begin_is_no_boilerplate_if_its_words_are_used_elsewhere() -> None:
    captions = [[f"a group of {n} dogs"] for n in range(60)] + [[f"dog {n} of a group"] for n in range(4)]
    assert find_boilerplate(captions, phrase_share=0.02).find_phrase("a group of dogs") is None
    assert find_boilerplate(captions[:60], phrase_share=0.02).find_phrase("a group of dogs") == "a group of"


def test_a_small_data_set_has_no_boilerplate() -> None:
    samples = [described("a dog runs fast over there", image=f"{n}.jpg") for n in range(10)]
    assert len(clean_data({"train": samples}, replace(OFF, caption_share=0.001, phrase_share=0.001))[0]["train"]) == 10


def test_other_fields_follow_the_kept_captions() -> None:
    sample = Sample(
        id=0,
        sample=0,
        image=Path("a.jpg"),
        captions=("dog", "a red dog"),
        also_true=((1,), (2, 3)),
        blanks=(Blank(caption=0, start=0, end=3, words=("dog",)), Blank(caption=1, start=2, end=5, words=("red",))),
    )
    (kept,) = clean_data({"train": [sample]}, replace(OFF, min_words=2))[0]["train"]
    assert kept.also_true == ((2, 3),)
    assert kept.blanks == (Blank(caption=0, start=2, end=5, words=("red",)),)


def test_the_report_escapes_control_characters() -> None:
    nasty = "\x1b[31m[bold]IMG_1234[/bold] \u202e[/red] end"
    _, report = clean_data({"train": [described(nasty, "a dog")]}, replace(OFF, file_names=True))
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    for table in report.tables():
        console.print(table)
    printed = stream.getvalue()
    assert r"\x1b[31m[bold]IMG_1234[/bold] \u202e[/red] end" in printed
    assert "\x1b" not in printed
    assert json.loads(report.to_json())["dropped"]["file name in the caption"]["count"] == 1
    assert "\x1b" not in report.to_json()


def test_captions_of_flickr8k_are_kept(shared: Path) -> None:
    listed = json.loads((shared / "data/flickr8k/dataset_flickr8k.json").read_text())["images"]
    samples = [described(*(s["raw"] for s in record["sentences"]), image=record["filename"]) for record in listed[:500]]
    defaults = CleanOptions()
    texts = {
        name: getattr(defaults, name)
        for name in OFF.__dataclass_fields__
        if name not in ("unreadable", "min_side", "max_aspect", "evaluation", "near_duplicates", "duplicate_captions")
    }
    kept, report = clean_data({"train": samples}, replace(OFF, **texts))
    lost = {reason: dropped.count for reason, dropped in report.dropped.items()}
    assert sum(lost.values()) <= 10, lost
    assert len(kept["train"]) == len(samples)
