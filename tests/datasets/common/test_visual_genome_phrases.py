"""Parts of Visual Genome's photos: regions, objects, attributes and relationships of all versions, as phrases and crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.image_ids import GENOME_BASE
from vlp.data.issues import DataError, Faults
from vlp.datasets.common.visual_genome_phrases import (
    PHRASES,
    Phrases,
    attribute_phrases,
    object_phrases,
    region_phrases,
    relationship_phrases,
)
from vlp.datasets.scenes import SceneGenome
from vlp.datasets.visual_genome import VisualGenome

Loading = dict[str, Any]


def official(shared: Path, folder: Path, loading: Loading, version: str, **changed: Any) -> VisualGenome:
    for file in (shared / "data/vg-sample" / version).glob("*.json"):
        (folder / file.name).symlink_to(file)
    return VisualGenome(root=folder, **{**loading, **changed})


# annotations of the sample's five photos that say something, and how many different phrases that makes in all photos
COUNTS = {
    ("v1.0.0", "regions"): 1288,
    ("v1.2.0", "regions"): 1278,
    ("v1.0.0", "objects"): 224,
    ("v1.2.0", "objects"): 177,
    ("v1.0.0", "attributes"): 237,
    ("v1.2.0", "attributes"): 110,
    ("v1.0.0", "relationships"): 156,
    ("v1.2.0", "relationships"): 158,
}


@pytest.mark.parametrize(("version", "content"), COUNTS)
def test_every_annotation_of_the_official_files_is_a_crop(
    shared: Path, tmp_path: Path, loading: Loading, version: str, content: str
) -> None:
    data = official(shared, tmp_path, loading, version, content=content, crop=True)
    data.faults = Faults(collect=True)
    samples = data.samples("train")
    assert data.faults.issues == {}
    assert len(samples) == COUNTS[version, content]
    assert len({sample.sample for sample in samples}) == len(samples)
    assert {sample.id for sample in samples} == {GENOME_BASE + image for image in range(1, 6)}
    sizes = {1: (800, 600), 2: (800, 600), 3: (640, 480), 4: (640, 480), 5: (800, 600)}
    for sample in samples:
        assert sample.crop is not None
        left, top, right, bottom = sample.crop
        width, height = sizes[sample.id - GENOME_BASE]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


@pytest.mark.parametrize("version", ["v1.0.0", "v1.2.0"])
def test_whole_photos_have_the_same_phrases_each_once(
    shared: Path, tmp_path: Path, loading: Loading, version: str
) -> None:
    for content in PHRASES:
        folder = tmp_path / content
        folder.mkdir()
        photos = official(shared, folder, loading, version, content=content, boxes=True).samples("train")
        assert len(photos) == 5
        crops = VisualGenome(root=folder, content=content, crop=True, **loading).samples("train")
        for photo in photos:
            texts = [text for crop in crops if crop.id == photo.id for text in crop.captions]
            assert photo.captions == tuple(dict.fromkeys(texts))
            first = {text: crop.crop for crop in reversed(crops) if crop.id == photo.id for text in crop.captions}
            assert photo.boxes == tuple(first[text] for text in photo.captions), "the box of each phrase's first region"
        bare = VisualGenome(root=folder, content=content, **loading).samples("train")
        assert [sample.captions for sample in bare] == [sample.captions for sample in photos]
        assert not any(sample.boxes for sample in bare)


def test_the_same_clock_in_both_versions(shared: Path, tmp_path: Path, loading: Loading) -> None:
    for version, number, attributes in (
        ("v1.0.0", 38203, ("green clock",)), ("v1.2.0", 1058498, ("green clock", "tall clock")),
    ):  # fmt: skip
        for content, captions in (("objects", ("clock",)), ("attributes", attributes)):
            folder = tmp_path / version / content
            folder.mkdir(parents=True)
            clock = official(shared, folder, loading, version, content=content, crop=True).samples("train")[0]
            assert (clock.sample, clock.captions, clock.crop) == (number, captions, (421, 91, 500, 430))
    shade = []
    for version in ("v1.0.0", "v1.2.0"):
        folder = tmp_path / version
        shade.append(official(shared, folder, loading, version, content="relationships", crop=True).samples("train")[0])
    assert [(s.captions, s.crop, s.sample) for s in shade] == [(("shade on street",), (77, 328, 791, 590), 15927)] * 2


def test_trailing_spaces_of_official_phrases_are_gone(shared: Path, tmp_path: Path, loading: Loading) -> None:
    told = json.loads((shared / "data/vg-sample/v1.2.0/region_descriptions.json").read_text())
    assert sum(region["phrase"].endswith(" ") for entry in told for region in entry["regions"]) > 50
    samples = official(shared, tmp_path, loading, "v1.2.0", crop=True).samples("train")
    assert all(text == " ".join(text.split()) for sample in samples for text in sample.captions)


BOX = {"x": 1, "y": 2, "w": 3, "h": 4}
CORNERS = (1.0, 2.0, 4.0, 6.0)


def test_ids_and_boxes_of_regions() -> None:
    box = {"x": 1, "y": 2, "width": 3, "height": 4, "phrase": "a dog"}
    for told in ({**box, "region_id": 7, "image_id": 1}, {**box, "id": 7, "image": 1}):  # v1.2, v1.0
        assert region_phrases(told) == Phrases(texts=("a dog",), number=7, box=CORNERS)
    assert region_phrases({"phrase": "a dog"}) == Phrases(texts=("a dog",), number=None, box=None)


def test_names_of_objects() -> None:
    assert object_phrases({**BOX, "id": 7, "names": ["dog", "puppy"]}).texts == ("dog", "puppy")
    merged = {
        **BOX,
        "object_id": 7,
        "names": ["dog"],
        "synsets": ["dog.n.01"],
        "merged_object_ids": [8],
        "image_url": "x",
    }
    assert object_phrases(merged) == Phrases(texts=("dog",), number=7, box=CORNERS), "v1.4"
    for names in ([], [7], None, {"a": 1}):
        with pytest.raises(DataError, match="needs a name or a list of names"):
            object_phrases({**BOX, "id": 7, "names": names})


def test_attributes_of_both_versions() -> None:
    old = {**BOX, "id": 7, "object_names": ["dog", "puppy"], "attributes": ["black", "very small"]}
    new = {**BOX, "object_id": 7, "names": ["dog"], "attributes": ["black", "very small"], "synsets": []}
    expected = Phrases(texts=("black dog", "very small dog"), number=7, box=CORNERS)
    assert attribute_phrases(old) == attribute_phrases(new) == expected
    for nothing in ({}, {"attributes": None}, {"attributes": []}):
        assert attribute_phrases({**BOX, "object_id": 7, "names": ["dog"], **nothing}).texts == ()
    with pytest.raises(DataError, match="attributes must be a list of texts"):
        attribute_phrases({**new, "attributes": "black"})


def test_relationships_in_capitals_and_with_lists_of_names() -> None:
    other = {"x": 10, "y": 0, "w": 5, "h": 3, "object_id": 2, "name": "grass"}
    for subject in ({**BOX, "id": 1, "name": "dog"}, {**BOX, "object_id": 1, "names": ["dog", "puppy"]}):
        told = {
            "relationship_id": 9,
            "subject": subject,
            "predicate": "ON ",
            "object": other,
            "synsets": ["along.r.01"],
        }
        phrases = relationship_phrases(told)
        assert [" ".join(str(text).split()) for text in phrases.texts] == ["dog on grass"]
        assert (phrases.number, phrases.box) == (9, (1, 0, 15, 6)), "around both objects"
    with pytest.raises(DataError, match="needs a subject, a predicate and an object"):
        relationship_phrases({"relationship_id": 9, "predicate": "on", "object": other})


def write(root: Path, regions: list[dict[str, Any]], **size: Any) -> Path:
    photo = {"image_id": 1, "url": "x/VG_100K/1.jpg", "coco_id": None, "flickr_id": None, "width": 20, "height": 10}
    (root / "image_data.json").write_text(json.dumps([{**photo, **size}]))
    (root / "region_descriptions.json").write_text(json.dumps([{"id": 1, "regions": regions}]))
    (root / "VG_100K").mkdir(exist_ok=True)
    PIL.Image.new("RGB", (20, 10)).save(root / "VG_100K/1.jpg")
    return root


def test_regions_beyond_the_photo_are_cut_and_those_outside_left_out(tmp_path: Path, loading: Loading) -> None:
    def region(number: int, *box: int) -> dict[str, Any]:
        return {
            "region_id": number,
            "phrase": f"r{number}",
            **dict(zip(("x", "y", "width", "height"), box, strict=True)),
        }

    regions = [region(1, -2, -1, 10, 5), region(2, 15, 5, 50, 50), region(3, 0, -904, 9, 25), region(4, 3, 3, 0, 5)]
    write(tmp_path, regions)
    with pytest.warns(UserWarning, match="left out") as told:
        samples = list(VisualGenome(root=tmp_path, crop=True, **loading).split("train"))
    assert [(s.sample, s.captions, s.crop) for s in samples] == [
        (1, ("r1",), (0, 0, 8, 4)),
        (2, ("r2",), (15, 5, 20, 10)),
    ]
    place = f"{tmp_path}/region_descriptions.json"
    assert {str(warning.message) for warning in told} == {
        f"{place}: box outside the image, 1 left out: [0].regions[2]",
        f"{place}: box of no area, 1 left out: [0].regions[3]",
    }
    with pytest.warns(UserWarning, match="left out"):
        (whole,) = VisualGenome(root=tmp_path, **loading).split("train")
    assert whole.captions == ("r1", "r2"), "the same regions, whether cropped or not"


def test_crops_need_a_box_and_the_size_of_the_photo(tmp_path: Path, loading: Loading) -> None:
    write(tmp_path, [{"region_id": 1, "phrase": "x"}])
    assert len(VisualGenome(root=tmp_path, **loading).split("train")) == 1
    message = r"region_descriptions.json: \[0\].regions\[0\] needs a box, and its photo a width and a height"
    for part in ({"crop": True}, {"boxes": True}):
        with pytest.raises(DataError, match=message):
            VisualGenome(root=tmp_path, **part, **loading).split("train")
    write(tmp_path, [{"region_id": 1, "phrase": "x", "x": 1, "y": 1, "width": 2, "height": 2}], width=None)
    with pytest.raises(DataError, match=message):
        VisualGenome(root=tmp_path, crop=True, **loading).split("train")


def test_questions_are_not_cropped(tmp_path: Path, loading: Loading) -> None:
    with pytest.raises(ValueError, match=r"about whole photos: set data\.crop=false"):
        VisualGenome(root=tmp_path, content="questions", crop=True, **loading)


def test_crops_of_a_photo_are_held_out_together(shared: Path, tmp_path: Path, loading: Loading) -> None:
    data = official(shared, tmp_path, loading, "v1.2.0", crop=True, held_out=2)
    train, val = ({sample.id for sample in data.samples(split)} for split in ("train", "val"))
    assert (len(train), len(val), train & val) == (3, 2, set())


def test_generated_regions_are_cropped_too(tmp_path: Path, loading: Loading) -> None:
    scenes = {"images": {"train": 3, "restval": 1, "val": 1, "test": 1}, "size": 32, "root": tmp_path}
    data = SceneGenome(**scenes, **loading, crop=True)
    data.prepare_data()
    samples = data.samples("train")
    assert len({sample.id for sample in samples}) == 4
    assert all(sample.crop is not None and sample.captions for sample in samples)
