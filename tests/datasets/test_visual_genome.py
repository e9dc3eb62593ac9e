"""Visual Genome: the official files of both versions, photos shared with COCO and Flickr30k, and the generated ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.image_ids import (
    FLICKR_BASE,
    GENOME_BASE,
    OTHER_BASE,
    flickr_image_id,
    image_id_from_path,
    read_image_id_list,
    visual_genome_id,
)
from vlp.datasets.scenes import SceneGenome, Scenes
from vlp.datasets.visual_genome import VisualGenome, plain_answer

Loading = dict[str, Any]


def genome(root: Path, loading: Loading, **changed: Any) -> VisualGenome:
    return VisualGenome(root=root, **{**loading, **changed})


def write(root: Path, photos: list[dict[str, Any]]) -> Path:
    """Three phrases and two questions of each photo."""
    regions, questions = [], []
    for photo in photos:
        file = root / "/".join(photo["url"].split("/")[-2:])
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8)).save(file)
        number = photo["image_id"]
        phrases = [f"thing of {number}", "a  cat", "a cat"]
        told = [{"region_id": number * 10 + i, "image_id": number, "phrase": p} for i, p in enumerate(phrases)]
        regions.append({"id": number, "regions": told})
        asked = [("What is it?", "A Cat."), ("Where?", "On the  mat")]
        pairs = [
            {"qa_id": number * 10 + i, "image_id": number, "question": q, "answer": a} for i, (q, a) in enumerate(asked)
        ]
        questions.append({"id": number, "qas": pairs})
    for name, content in (("image_data", photos), ("region_descriptions", regions), ("question_answers", questions)):
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


def photo(
    number: int, coco: int | None = None, flickr: int | str | None = None, folder: str = "VG_100K"
) -> dict[str, Any]:
    url = f"https://cs.stanford.edu/people/rak248/{folder}/{number}.jpg"
    return {"image_id": number, "coco_id": coco, "flickr_id": flickr, "url": url, "width": 8, "height": 8}


@pytest.fixture
def four(tmp_path: Path) -> Path:
    photos = [photo(1, folder="VG_100K_2"), photo(2, 391895, 77), photo(3, 9, None), photo(4, None, "1000092795")]
    return write(tmp_path, photos)


@pytest.mark.parametrize(("version", "regions"), [("v1.0.0", 1288), ("v1.2.0", 1278)])
def test_official_files_of_both_versions(
    shared: Path, tmp_path: Path, loading: Loading, version: str, regions: int
) -> None:
    annotations = shared / "data/vg-sample" / version
    for file in annotations.glob("*.json"):
        (tmp_path / file.name).symlink_to(file)
    for url in (entry["url"] for entry in json.loads((annotations / "image_data.json").read_text())):
        image = tmp_path / "/".join(url.split("/")[-2:])
        image.parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (8, 8)).save(image)
    samples = list(genome(tmp_path, loading).split("train"))
    assert [s.id - GENOME_BASE for s in samples] == [1, 2, 3, 4, 5]
    assert samples[0].captions[0] == "the clock is green in colour"
    assert samples[0].image == tmp_path / "VG_100K_2" / "1.jpg"
    phrases = sum(len(entry["regions"]) for entry in json.loads((annotations / "region_descriptions.json").read_text()))
    distinct = sum(len(s.captions) for s in samples)
    assert phrases == regions
    assert 0.9 * phrases < distinct <= phrases
    asked = list(genome(tmp_path, loading, content="questions").split("train"))
    assert len(asked) == 721
    assert (asked[0].question, asked[0].answers, asked[0].answer_weight) == (
        "What color is the clock?",
        ("green",),
        0.5,
    )
    assert asked[0].sample == 986768


def test_phrases_are_captions_of_the_whole_photo(four: Path, loading: Loading) -> None:
    samples = list(genome(four, loading).split("train"))
    assert samples[0].captions == ("thing of 1", "a cat")
    assert [s.id for s in samples] == [GENOME_BASE + 1, 391895, 9, FLICKR_BASE + 1000092795], "shared with other data"
    data = genome(four, loading, captions="all")
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.caption is not None
    assert batch.question is None
    assert len(set(batch.id.tolist())) == 4


def test_questions_are_samples_with_one_answer_of_half_weight(four: Path, loading: Loading) -> None:
    data = genome(four, loading, content="questions", answer_vocabulary="answers.json")
    (four / "answers.json").write_text('["on mat", "cat"]')
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.answer_weight is not None
    assert batch.answer_weight.tolist() == [[0.5]] * 4
    assert batch.scores is not None
    assert batch.scores.sum(1).tolist() == [1.0] * 4
    assert len(data.split("train")) == 8
    assert data.split("train")[0].answers == ("a cat",)
    assert plain_answer("3.5.") == "3.5"


def test_photos_held_out_for_measuring_elsewhere_are_left_out(four: Path, loading: Loading) -> None:
    coco = {"images": [{"split": split, "cocoid": number, "filename": "x.jpg"} for split, number in
                       (("test", 391895), ("train", 9))]}  # fmt: skip
    (four / "dataset_coco.json").write_text(json.dumps(coco))
    (four / "flickr.txt").write_text("5\n1000092795.jpg\n\n")
    data = genome(four, loading, exclude_coco="dataset_coco.json", exclude_flickr="flickr.txt")
    assert [sample.sample for sample in data.split("train")] == [1, 3]
    asked = genome(four, loading, content="questions", exclude_coco="dataset_coco.json")
    assert {sample.id for sample in asked.split("train")} == {GENOME_BASE + 1, 9, FLICKR_BASE + 1000092795}


def test_lists_of_photos(tmp_path: Path) -> None:
    for name, text in (
        ("a.json", '[7, "8", "COCO_val2014_000000000009.jpg"]'),
        ("a.txt", "7\n8.jpg\nval2014/000000000009.jpg"),
    ):
        (tmp_path / name).write_text(text)
        assert read_image_id_list(tmp_path / name) == {7, 8, 9}
    flickr = {"images": [{"split": "val", "filename": "36979.jpg", "imgid": 1}]}
    (tmp_path / "k.json").write_text(json.dumps(flickr))
    assert read_image_id_list(tmp_path / "k.json") == {36979}
    (tmp_path / "a.txt").write_text("7\nseven\n")
    with pytest.raises(ValueError, match=r"a\.txt, line 2: 'seven' is no photo"):
        read_image_id_list(tmp_path / "a.txt")


def test_a_file_name_tells_the_photo() -> None:
    assert (
        image_id_from_path("val2014/COCO_val2014_000000391895.jpg") == image_id_from_path("000000391895.jpg") == 391895
    )
    assert image_id_from_path("data/VG_100K_2/7.jpg") == GENOME_BASE + 7
    for path in ("Images/1000268201_693b08cb0e.jpg", "flickr30k-images/1000268201.jpg"):
        assert image_id_from_path(path) == FLICKR_BASE + 1000268201
    assert flickr_image_id("1000268201.jpg") == visual_genome_id(7, None, 1000268201) == FLICKR_BASE + 1000268201
    assert flickr_image_id("a.jpg") == image_id_from_path("a.jpg")
    assert visual_genome_id(7, 391895, 1000268201) == 391895, (
        "COCO's id comes first: most of its photos lack Flickr's here"
    )
    others = {image_id_from_path(path) for path in ("1000092795.jpg", "a/1.jpg", "b/1.jpg", "7.jpg")}
    assert len(others) == 4
    assert all(OTHER_BASE <= number < 2**63 for number in others)


def test_held_out_photos_and_no_test_split(four: Path, loading: Loading) -> None:
    data = genome(four, loading, content="questions", held_out=1)
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [6, 2, 0]
    assert len({sample.id for sample in data.split("val")}) == 1
    assert len(genome(four, loading).split("val")) == 0


def test_files_with_faults(four: Path, loading: Loading) -> None:
    with pytest.raises(ValueError, match=r"data\.content='boxes': choose regions, questions, objects, attributes, rel"):
        genome(four, loading, content="boxes")
    regions = json.loads((four / "region_descriptions.json").read_text())
    regions[0]["regions"] = [{"region_id": 1, "phrase": " "}]
    regions.append({"id": 99, "regions": []})
    (four / "region_descriptions.json").write_text(json.dumps(regions))
    with pytest.warns(UserWarning, match="annotations of 1 unknown images are left out: 99"):
        assert len(genome(four, loading).split("train")) == 3
    photos = json.loads((four / "image_data.json").read_text())
    for change, message in (
        ({"url": "http://x/../1.jpg"}, r"image_data.json: \[0\]: .* leads out of"),
        ({"url": None}, r"\[0\]: expected a whole number image_id and a url"),
        ({"image_id": 2}, "image_id 2 is listed more than once"),
    ):
        (four / "image_data.json").write_text(json.dumps([{**photos[0], **change}, *photos[1:]]))
        with pytest.raises(ValueError, match=message):
            genome(four, loading).split("train")
    (four / "image_data.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="expected a list of objects"):
        genome(four, loading).split("train")


def test_generated_scenes_have_the_splits_of_their_captions(tmp_path: Path, loading: Loading) -> None:
    scenes = {"images": {"train": 12, "restval": 2, "val": 3, "test": 3}, "size": 32, "root": tmp_path}
    captions, phrases = Scenes(**scenes, **loading), SceneGenome(**scenes, **loading)
    asked = SceneGenome(**scenes, **loading, content="questions")
    phrases.prepare_data()
    for split in ("train", "val", "test"):
        same = {(sample.id, sample.image) for sample in captions.split(split)}
        assert {(sample.id, sample.image) for sample in phrases.split(split)} == same
        assert {(sample.id, sample.image) for sample in asked.split(split)} <= same
    assert not {"yes", "no"} & {sample.answers[0] for sample in asked.split("train")}
    asked.setup("fit")
    batch = next(iter(asked.train_dataloader()))
    assert batch.question is not None
    assert batch.scores is None, "without a label map its answers are not classified"
