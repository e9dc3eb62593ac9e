"""VCR's official files, written here in their form with each of their oddities."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.issues import DataError, Faults
from vlp.data.marks import OTHER_COLOUR, PHOTO_COLOURS
from vlp.datasets.vcr import VCRFiles
from vlp.structures import Sample
from vlp.system.errors import UserError

Loading = dict[str, Any]
Row = dict[str, Any]
OBJECTS = ["person", "person", "person", "wineglass"]
BOXES = [[0, 0, 8, 16, 0.99], [8, 2, 16, 16, 0.98], [20, 1, 30, 15, 0.9], [16.5, 8, 18, 12, 0.5]]


def row(split: str, number: int, *, film: str = "film_1", **changed: Any) -> Row:
    answers = [["Yes", ",", [1], "does", "."], ["No", "."], ["Only", "if", [0, 2], "asks", "."], ["Maybe", "."]]
    rationales = [[[1], "holds", "the", [3], "."], [[1], "frowns", "."], [[0], "is", "tall", "."], ["It", "rains", "."]]
    return {
        "movie": film, "objects": OBJECTS, "interesting_scores": [0, -1], "answer_likelihood": "likely",
        "img_fn": f"{film}/{split}@0.jpg", "metadata_fn": f"{film}/{split}@0.json", "img_id": f"{split}-0",
        "question": ["Does", [1], "feel", "comfortable", "?"], "question_orig": "Does 2 feel comfortable?",
        "question_number": 1, "answer_orig": "Yes, 2 does.", "rationale_orig": "2 holds the 4.", "annot_id": f"{split}-{number}",
        "match_fold": f"{split}-3", "match_index": number, "answer_match_iter": [3, 0, 2, 1], "answer_sources": [4, 0, 1, 2],
        "answer_choices": answers, "rationale_choices": rationales, "answer_label": 0, "rationale_label": 1,
    } | changed  # fmt: skip


def unlabelled(split: str, number: int) -> Row:
    return {key: value for key, value in row(split, number).items() if not key.endswith(("_label", "_orig"))}


def write(root: Path, rows: dict[str, list[Row]], *, boxes: Any = BOXES, photos: bool = True) -> Path:
    for split, lines in rows.items():
        (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for line in lines:
            photo, metadata = (root / "vcr1images" / line[key] for key in ("img_fn", "metadata_fn"))
            photo.parent.mkdir(parents=True, exist_ok=True)
            if photos:
                PIL.Image.new("RGB", (32, 16), "gray").save(photo)
            content = {
                "boxes": boxes,
                "segms": [[[[0, 0], [8, 0], [8, 16]]]] * 4,
                "names": OBJECTS,
                "width": 32,
                "height": 16,
            }
            metadata.write_text(json.dumps(content))
    return root


def data(root: Path, loading: Loading, **changed: Any) -> VCRFiles:
    return VCRFiles(root=root, **{"splits": {"train": "train", "val": "val", "test": "test"}, **changed}, **loading)


def only(root: Path, loading: Loading, line: Row, **changed: Any) -> Sample:
    return next(iter(data(write(root, {"val": [line]}), loading, **changed).split("val")))


def test_questions_answers_rationales_and_what_they_name(tmp_path: Path, loading: Loading) -> None:
    sample = only(tmp_path, loading, row("val", 17))
    assert sample.question == "Does Casey feel comfortable?"
    assert sample.choices == ("Yes, Casey does.", "No.", "Only if Riley and Jordan asks.", "Maybe.")
    assert sample.rationales == ("Casey holds the wine glass.", "Casey frowns.", "Riley is tall.", "It rains.")
    assert (sample.sample, sample.label, sample.rationale_label) == (17, 0, 1)
    assert sample.boxes == tuple(tuple(map(float, box[:4])) for box in BOXES)
    assert sample.marks == (0, 1, 2, 3)
    assert sample.mark_colours == (*PHOTO_COLOURS[:3], OTHER_COLOUR)
    named = [(sample.texts[tag.text][tag.start : tag.end], tag.text, tag.boxes) for tag in sample.tags]
    assert named == [
        ("Casey", 0, (1,)), ("Casey", 1, (1,)), ("Riley", 3, (0,)), ("Jordan", 3, (2,)), ("Casey", 5, (1,)),
        ("wine glass", 5, (3,)), ("Casey", 6, (1,)), ("Riley", 7, (0,)),
    ]  # fmt: skip


def test_test_has_no_labels(tmp_path: Path, loading: Loading) -> None:
    root = write(tmp_path, {"train": [row("train", 0)], "val": [row("val", 0)], "test": [unlabelled("test", 0)]})
    read = data(root, loading | {"batch_size": 1})
    (sample,) = read.split("test")
    assert (sample.label, sample.rationale_label, len(sample.rationales)) == (None, None, 4)
    read.setup("fit")
    batch = next(iter(read.train_dataloader()))
    assert batch.rationales.ids.shape[:2] == batch.choices.ids.shape[:2] == (1, 4)
    assert (batch.label.tolist(), batch.rationale_label.tolist()) == ([0], [1])
    assert batch.boxes[0].index.tolist() == sorted(batch.boxes[0].index.tolist())
    test = next(iter(read.test_dataloader()))
    assert test.label is test.rationale_label is None
    assert test.rationales.ids.shape[:2] == (1, 4)


def test_the_questions_of_a_photo_share_its_id(tmp_path: Path, loading: Loading) -> None:
    root = write(tmp_path, {"val": [row("val", 0), row("val", 1), row("val", 2, film="film_2")]})
    first, second, third = data(root, loading).split("val")
    assert first.id == second.id != third.id
    assert [sample.sample for sample in (first, second, third)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("question", "marks"),
    [(["Is", "everyone", "happy", "?"], (0, 1, 2)), (["What", "?"], (0, 1, 2)), (["Is", [3], "full", "?"], (3,))],
)
def test_everyone_and_no_tag_mean_all_people(
    tmp_path: Path, loading: Loading, question: list[Any], marks: tuple[int, ...]
) -> None:
    plain = {f"{kind}_choices": [["a"], ["b"], ["c"], ["d"]] for kind in ("answer", "rationale")}
    assert only(tmp_path, loading, row("val", 0, question=question, **plain)).marks == marks


def test_a_tag_past_the_objects_is_read_and_reported(tmp_path: Path, loading: Loading) -> None:
    with pytest.warns(UserWarning, match=r"tag of no object, 1 .*line 1"):
        sample = only(tmp_path, loading, row("val", 0, question=["Is", [4], "here", "?"]))
    assert sample.question == "Is someone here?"
    assert sample.tags[0].boxes == ()
    assert sample.marks == (0, 1, 2, 3)


def test_without_marks_boxes_and_tags_stay(tmp_path: Path, loading: Loading) -> None:
    sample = only(tmp_path, loading, row("val", 0), marks=False)
    assert (sample.marks, sample.mark_colours) == ((), ())
    assert len(sample.boxes or ()) == 4
    assert sample.tags


def test_marks_are_in_the_pixels(tmp_path: Path, loading: Loading) -> None:
    root = write(tmp_path, {"val": [row("val", 0)]})
    pixels = {}
    for marks in (True, False):
        read = data(root, loading, marks=marks)
        read.setup("validate")
        pixels[marks] = next(iter(read.val_dataloader())).image.pixels
    assert (pixels[True] != pixels[False]).any()
    assert len(pixels[False].flatten(2).unique(dim=2)[0, 0]) == 1  # a gray photo


def test_compressed_files(tmp_path: Path, loading: Loading) -> None:
    write(tmp_path, {"val": [row("val", 0)]})
    path = tmp_path / "val.jsonl"
    with gzip.open(tmp_path / "val.jsonl.gz", "wt") as stream:
        stream.write(path.read_text())
    path.unlink()
    assert len(data(tmp_path, loading).split("val")) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": "Does 2 feel well?"}, "question must be a list of words"),
        ({"question": ["Does", [-1], "feel", "well", "?"]}, "neither a word nor a list"),
        ({"question": [" "]}, "text 0 of question, answers and rationales is empty"),
        ({"answer_choices": [["Yes"], ["No"]]}, "answer_choices must be 4 lists of words, not 2"),
        ({"rationale_choices": None}, "rationale_choices must be a list"),
        ({"answer_label": 4}, "answer_label must be from 0 to 3, not 4"),
        ({"rationale_label": True}, "rationale_label must be from 0 to 3, not True"),
        ({"objects": ["person"]}, "1 objects, and .* has 4 boxes"),
        ({"objects": "person"}, "objects must be a list"),
        ({"annot_id": "train-0"}, 'annot_id must be "val-" and a number'),
        ({"annot_id": None}, "annot_id"),
    ],
)
def test_a_malformed_line_is_one_sentence_with_its_place(
    tmp_path: Path, loading: Loading, changed: Row, message: str
) -> None:
    with pytest.raises(DataError, match=rf"val\.jsonl, line 1: .*{message}"):
        only(tmp_path, loading, row("val", 0, **changed))


def test_paths_stay_below_the_photos(tmp_path: Path, loading: Loading) -> None:
    root = write(tmp_path, {"val": [row("val", 0)]})
    (root / "val.jsonl").write_text(json.dumps(row("val", 0, img_fn="../secret.jpg")) + "\n")
    with pytest.raises(DataError, match="leads out of"):
        data(root, loading).split("val")


def test_a_line_that_is_no_json_and_an_id_that_is_there_twice(tmp_path: Path, loading: Loading) -> None:
    root = write(tmp_path, {"val": [row("val", 0), row("val", 0)]})
    with pytest.raises(DataError, match="annot_id given twice: 0"):
        data(root, loading).split("val")
    (root / "val.jsonl").write_text('{"objects": [\n')
    with pytest.raises(DataError, match=r"val\.jsonl, line 1: not valid JSON"):
        data(root, loading).split("val")


@pytest.mark.parametrize("boxes", [None, [[0, 1, 2]] * 4, [[0, 1, 2, "x", 1]] * 4, [[0, 1, 2, float("nan"), 1]] * 4])
def test_wrong_boxes_name_the_file_of_metadata(tmp_path: Path, loading: Loading, boxes: Any) -> None:
    root = write(tmp_path, {"val": [row("val", 0)]}, boxes=boxes)
    with pytest.raises(DataError, match=r"val@0\.json.*left, top, right, bottom"):
        data(root, loading).split("val")


def test_missing_photos_and_metadata(tmp_path: Path, loading: Loading) -> None:
    root = write(tmp_path, {"val": [row("val", 0)]}, photos=False)
    with pytest.raises(FileNotFoundError, match="1 of 1 val images of toy are not on disk"):
        data(root, loading).split("val")
    (root / "vcr1images/film_1/val@0.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"the boxes of val@0\.jpg is missing|the boxes of val@0\.jpg"):
        data(root, loading).split("val")


def test_a_check_collects_all_faults_and_reads_the_rest(tmp_path: Path, loading: Loading) -> None:
    root = write(tmp_path, {"val": [row("val", 0), row("val", 1, answer_label=9), row("val", 2, question=[[0.5]])]})
    read = data(root, loading)
    read.faults = Faults(collect=True)
    assert [sample.sample for sample in read.samples("val")] == [0]
    assert {kind for kind, _ in read.faults.issues} == {"unknown label", "tag is no list of numbers"}


def test_settings_are_checked(tmp_path: Path, loading: Loading) -> None:
    with pytest.raises(UserError, match=r"data\.palette='bright': choose photos or scenes"):
        data(tmp_path, loading, palette="bright")
    with pytest.raises(UserError, match=r"data\.splits\.dev"):
        data(tmp_path, loading, splits={"dev": "val"})
    assert (
        len(data(write(tmp_path, {"train": [row("train", 0)]}), loading, splits={"train": "train"}).split("val")) == 0
    )
