"""VisDial: tiny files in the official form with their oddities and faults, and the generated ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.datasets.evaluation_batch import batch_of
from vlp.data.rounds import round_key
from vlp.datasets.scenes import SceneDialogues
from vlp.datasets.visdial import VisDial
from vlp.system.errors import UserError

QUESTIONS = ["is it  red", "how many are there", "where is it?"]
ANSWERS = ["yes", "two", "left", "no", "can't tell."]
FILES = {
    "dialogues": {split: f"visdial/visdial_1.0_{split}.json" for split in ("train", "val", "test")},
    "relevance": {"val": "visdial/visdial_1.0_val_dense_annotations.json"},
    "images": {
        "train": ["train2014/COCO_train2014_{id:012d}.jpg", "val2014/COCO_val2014_{id:012d}.jpg"],
        "val": "VisualDialog_val2018/VisualDialog_val2018_{id:012d}.jpg",
        "test": "VisualDialog_test2018/VisualDialog_test2018_{id:012d}.jpg",
    },
}
Round = dict[str, Any]


def asked(question: int, answer: int | None = None, options: tuple[int, ...] = (), right: int | None = None) -> Round:
    record: Round = {"question": question}
    if answer is not None:
        record["answer"] = answer
    if options:
        record["answer_options"] = list(options)
    return record if right is None else record | {"gt_index": right}


TRAIN = [asked(0, 0, (3, 0, 4), 1), asked(1, 1, (1, 2, 3), 0), asked(2, 2, (0, 1, 2), 2)]


def write(root: Path, split: str, photos: dict[int, tuple[str, list[Round]]]) -> Path:
    """photos: by image_id, the file of the photo and the rounds."""
    dialogs = []
    for image, (file, rounds) in photos.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8), (image % 256, 0, 0)).save(path)
        dialogs.append({"image_id": image, "caption": f"a photo of {image}", "dialog": rounds})
    data = {"questions": QUESTIONS, "answers": ANSWERS, "dialogs": dialogs}
    path = root / "visdial" / f"visdial_1.0_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"split": split, "version": "1.0", "data": data}))
    return path


@pytest.fixture
def official(tmp_path: Path) -> Path:
    in_train, in_val = "train2014/COCO_train2014_000000000007.jpg", "val2014/COCO_val2014_000000000009.jpg"
    write(tmp_path, "train", {7: (in_train, TRAIN), 9: (in_val, TRAIN[:1])})
    write(tmp_path, "val", {185: ("VisualDialog_val2018/VisualDialog_val2018_000000000185.jpg", TRAIN[:2])})
    dense = [{"image_id": 185, "round_id": 2, "gt_relevance": [1.0, 0.5, 0]}]
    (tmp_path / "visdial" / "visdial_1.0_val_dense_annotations.json").write_text(json.dumps(dense))
    unanswered = [asked(0, 3), asked(1, 1), asked(2, None, (0, 2, 4))]
    test = "VisualDialog_test2018/VisualDialog_test2018_{:012d}.jpg"
    write(tmp_path, "test", {3: (test.format(3), unanswered), 4: (test.format(4), [asked(0, None, (0, 3, 4))])})
    return tmp_path


def visdial(root: Path, loading: dict[str, Any], **changed: Any) -> VisDial:
    return VisDial(root=root, **{**loading, **FILES, **changed})


def test_a_sample_is_a_round_with_all_that_was_said_before(official: Path, loading: dict[str, Any]) -> None:
    first, _, third, other = visdial(official, loading).split("train")
    assert (first.question, first.history, first.answers) == ("is it red?", ("a photo of 7.",), ("yes",))
    assert third.question == "where is it?"
    assert third.history == ("a photo of 7.", "is it red? yes.", "how many are there? two.")
    assert (third.id, third.sample) == (7, round_key(7, 3))
    assert third.choices == ()  # a generative model needs none to train
    assert third.label is None
    assert third.image == official / "train2014" / "COCO_train2014_000000000007.jpg"
    assert other.image == official / "val2014" / "COCO_val2014_000000000009.jpg"  # COCO's val photos are train's too


def test_history_is_that_of_the_last_rounds(official: Path, loading: dict[str, Any]) -> None:
    histories = {count: visdial(official, loading, history=count).split("train")[2].history for count in (0, 1, 9)}
    assert histories[0] == ("a photo of 7.",)
    assert histories[1] == ("a photo of 7.", "how many are there? two.")
    assert len(histories[9]) == 3


def test_options_and_the_relevances_of_one_round(official: Path, loading: dict[str, Any]) -> None:
    first, second = visdial(official, loading).split("val")
    assert (first.choices, first.label, first.relevance) == (("no", "yes", "can't tell."), 1, ())
    assert (second.choices, second.label, second.relevance) == (("two", "left", "no"), 0, (1.0, 0.5, 0.0))
    assert first.id != 185  # these photos are not COCO's, whatever their numbers
    trained = visdial(official, loading, train_options=True).split("train")[0]
    assert (trained.choices, trained.label) == (("no", "yes", "can't tell."), 1)


def test_test_dialogues_have_options_in_their_last_round_alone(official: Path, loading: dict[str, Any]) -> None:
    long, short = visdial(official, loading).split("test")
    assert (long.sample, short.sample) == (round_key(3, 3), round_key(4, 1))
    assert long.history == ("a photo of 3.", "is it red? no.", "how many are there? two.")
    assert (long.choices, long.label, long.answers) == (("yes", "left", "can't tell."), None, ())


def test_transcripts_are_the_dialogue_up_to_the_answer(official: Path, loading: dict[str, Any]) -> None:
    data = visdial(official, loading, transcripts=True, history=1)
    assert data.split("train")[2].captions == ("a photo of 7. how many are there? two. where is it? left.",)
    assert data.split("val")[0].captions == ()


def test_batches_have_options_as_answers_and_relevances(official: Path, loading: dict[str, Any]) -> None:
    batch = batch_of(visdial(official, loading), "val")
    assert batch.relevance is not None
    assert batch.choices is not None
    assert batch.relevance.tolist() == [[-1.0, -1.0, -1.0], [1.0, 0.5, 0.0]]
    assert batch.choices.ids.shape[:2] == (2, 3)
    assert batch.label is not None
    assert batch.label.tolist() == [1, 0]
    assert batch_of(visdial(official, loading), "test").label is None


def corrupt(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("train", lambda c: c["data"]["dialogs"][0]["dialog"][0].update(question=3), "question must be a position"),
        ("train", lambda c: c["data"]["dialogs"][0]["dialog"][0].update(question=True), "question must be a position"),
        ("train", lambda c: c["data"]["dialogs"][0]["dialog"][0].update(gt_index=3), "gt_index must be a position"),
        ("train", lambda c: c["data"]["dialogs"][0]["dialog"][0].update(gt_index=0), "the option at gt_index is 'no'"),
        ("train", lambda c: c["data"]["dialogs"][0]["dialog"][1].pop("answer_options"), "answer_options must be"),
        ("train", lambda c: c["data"]["dialogs"][0]["dialog"][1].pop("gt_index"), "gt_index must be a position"),
        ("train", lambda c: c["data"]["dialogs"][0].pop("caption"), "a text caption"),
        ("train", lambda c: c["data"]["dialogs"][0].update(dialog=[]), "0 rounds"),
        ("train", lambda c: c["data"].pop("answers"), "a list of texts under data.answers"),
        ("train", lambda c: c["data"]["dialogs"].append(c["data"]["dialogs"][0]), "not unique"),
        ("val", lambda c: c["data"]["dialogs"][0]["dialog"][1].update(answer_options=[1, 2]), "2 options, and 3 rel"),
        ("test", lambda c: c["data"]["dialogs"][0]["dialog"][0].pop("answer"), "answer must be a position"),
    ],
)
def test_a_faulty_file_is_one_sentence_with_its_location(
    official: Path, loading: dict[str, Any], split: str, change: Any, message: str
) -> None:
    path = official / "visdial" / f"visdial_1.0_{split}.json"
    corrupt(path, change)
    with pytest.raises(UserError, match=message) as caught:
        visdial(official, loading).split(split)
    assert "not unique" in message or str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image_id": 185, "round_id": 0, "gt_relevance": [1, 0, 0]}, "round_id from 1"),
        ({"image_id": 185, "round_id": 2, "gt_relevance": [1, 0, 1.5]}, "numbers from 0 to 1"),
        ({"image_id": 185, "round_id": 2, "gt_relevance": [1, 0, 0]}, "listed before"),
    ],
)
def test_faulty_relevances(official: Path, loading: dict[str, Any], record: dict[str, Any], message: str) -> None:
    path = official / "visdial" / "visdial_1.0_val_dense_annotations.json"
    corrupt(path, lambda content: content.append(record))
    with pytest.raises(UserError, match=message):
        visdial(official, loading).split("val")


def test_relevances_under_the_key_of_train_and_of_unknown_rounds(official: Path, loading: dict[str, Any]) -> None:
    path = official / "visdial" / "dense.json"
    path.write_text(json.dumps([{"image_id": i, "round_id": 1, "relevance": [0, 1, 0]} for i in (7, 8)]))
    data = visdial(official, loading, relevance={"train": "visdial/dense.json"}, train_options=True)
    with pytest.warns(UserWarning, match="1 unknown train rounds are left out: image 8 round 1"):
        assert data.split("train")[0].relevance == (0.0, 1.0, 0.0)


def test_history_below_0_is_an_error(loading: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"data\.history=-1"):
        visdial(Path("."), loading, history=-1)


def test_generated_dialogues_are_read_as_the_official_ones(tmp_path: Path, loading: dict[str, Any]) -> None:
    settings = {"images": {"train": 3, "restval": 1, "val": 2, "test": 2}, "size": 32}
    data = SceneDialogues(root=tmp_path, **settings, **loading)
    data.prepare_data()
    assert {sample.id for sample in data.split("train")} == {1, 2, 3, 10_000_001}
    for split in ("val", "test"):
        samples = data.split(split)
        assert 16 <= len(samples) <= 18
        assert all(len(sample.choices) == 20 and sample.label is not None for sample in samples)
        assert sum(bool(sample.relevance) for sample in samples) == 2  # one round of each dialogue
        assert all(sample.relevance[sample.label or 0] == 1.0 for sample in samples if sample.relevance)
