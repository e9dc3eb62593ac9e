"""`vlp predict` with small checkpoints: the records are those of `Task.predict`, and mistakes are one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

import vlp
from vlp.build import build
from vlp.checkpoints import load
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.cli import main
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.tokenizers.trained import TrainedTokenizer
from vlp.training.portable_config import set_vocabulary_size

HEADS = ["tasks.vqa.width=128", "tasks.vqa.answers=[yes,no,red]"]
FUSED = ["model=albef_tiny", "objective=[itc,itm]", "task=[vqa,nlvr2,visual_entailment]", *HEADS]
PAIRS = ["model=albef_tiny", "model.fusion.images=2", "objective=[itc]", "task=[nlvr2]", "tasks.nlvr2.head=albef"]
CAPTIONER = ["model=encoder_decoder_tiny", "objective=[lm]", "task=[captioning]"]


def saved(path: Path, *overrides: str, vocabulary: bool = True) -> Path:
    """A checkpoint as a run leaves it, of random weights."""
    composed = Composer(conf=conf_folder(), config_name="train").compose([*overrides, "tokenizer.size=300"])
    config = {"objectives": {}} | resolve_config(composed, path.parent)
    tokenizer = TrainedTokenizer(size=300, context_length=int(config["tokenizer"]["context_length"]))
    tokenizer.train(["is there a red dog", "a blue cat on a mat", "yes no"])
    for part in ("model", "objectives", "tasks"):
        set_vocabulary_size(config[part], tokenizer.size)
    torch.manual_seed(0)
    model = build(config["model"])
    parts = {name: build(node) for name, node in (config["objectives"] | config["tasks"]).items()}
    heads = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    kept = {key: config[key] for key in ("model", "transform", "objectives", "tasks")}
    checkpoint = Checkpoint(
        config=kept, state=dict(model.state_dict()), heads=heads,
        tokenizer_json=tokenizer.to_json() if vocabulary else None,
    )  # fmt: skip
    load.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("fused") / "a.ckpt", *FUSED)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("captioner") / "a.ckpt", *CAPTIONER)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    for number in range(3):
        PIL.Image.new("RGB", (70, 64 + number), (90 * number, 20, 200)).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(3)]


def predicted(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert main(["predict", *map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_captions(captioner: Path, photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = predicted(capsys, captioner, "captioning", *photos)
    assert lines == [
        {"image": image, "caption": caption}
        for image, caption in zip(photos, vlp.load(captioner).caption(photos), strict=True)
    ]


def test_answers_are_those_of_the_predictor_whatever_the_batch(
    fused: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    question = "is there a red dog"
    best = vlp.load(fused).answer(photos, [question] * 3)
    for size in (1, 32):
        lines = predicted(capsys, fused, "vqa", *photos, "--question", question, "--batch-size", size)
        assert lines == [
            {"image": image, "question": question, "answer": answers[0][0]}
            for image, answers in zip(photos, best, strict=True)
        ]


def test_matches_and_cosines_of_several_captions(
    fused: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    captions = ["a red dog", "a blue cat on a mat"]
    options = [word for caption in captions for word in ("--caption", caption)]
    lines = predicted(capsys, fused, "matching", *photos, *options)
    predictor = vlp.load(fused)
    for image, line in zip(photos, lines, strict=True):
        assert (line["image"], line["captions"]) == (image, captions)
        assert line["probability"] == pytest.approx(predictor.match([image] * 2, captions).tolist(), abs=1e-5)
    lines = predicted(capsys, fused, "retrieval", photos[0], *options)
    cosine = predictor.embed_images(photos[:1]) @ predictor.embed_texts(captions).T
    assert lines[0]["scores"] == pytest.approx(cosine[0].tolist(), abs=1e-5)


def test_phrases_are_grounded_in_pixels_of_the_photo_one_line_each(
    fused: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    phrases = ["a red dog", "a blue cat on a mat"]
    options = [word for phrase in phrases for word in ("--caption", phrase)]
    lines = predicted(capsys, fused, "grounding", *photos, *options)  # by the heat of matching: it has no box head
    assert [(line["image"], line["captions"]) for line in lines] == [(p, [t]) for p in photos for t in phrases]
    found = vlp.load(fused).ground([line["image"] for line in lines], [line["captions"][0] for line in lines])
    for number, (line, box) in enumerate(zip(lines, found, strict=True)):
        assert line["boxes"][0] == pytest.approx(box["box"], abs=1e-3)
        left, top, right, bottom = box["box"]
        assert 0 <= left < right <= 70
        assert 0 <= top < bottom <= 64 + number // 2


def test_classes_by_name(fused: Path, photos: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = predicted(capsys, fused, "zero_shot", *photos, "--label", "dog", "--label", "cat")
    for line in lines:
        assert {name for name, _ in line["classes"]} == {"dog", "cat"}
        assert line["classes"][0][1] >= line["classes"][1][1]


def test_a_file_of_lines_has_texts_of_its_own_and_pairs(
    fused: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twofold = saved(tmp_path / "pairs.ckpt", *PAIRS)
    rows = [
        {"image": "0.png", "question": "a red dog", "choices": ["a dog", "a cat", "a mat"]},
        {"image": "1.png", "question": "a cat", "choices": ["a cat"]},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"images": ["0.png", "2.png"], "question": "a red dog"}))
    lines = predicted(capsys, fused, "visual_entailment", tmp_path / "rows.jsonl")
    assert [line["question"] for line in lines] == ["a red dog", "a cat"]
    assert all(line["label"] in ("entailment", "neutral", "contradiction") for line in lines)
    lines = predicted(capsys, fused, "compositionality", tmp_path / "rows.jsonl")
    assert [len(line["scores"]) for line in lines] == [3, 1]
    assert [line["image"] for line in lines] == photos[:2]
    (pair,) = predicted(capsys, twofold, "nlvr2", tmp_path / "pairs.jsonl")
    assert pair["images"] == [photos[0], photos[2]]
    assert pair["true"] == (pair["probability"] > 0.5)


def test_texts_that_a_task_does_not_need_change_nothing(
    captioner: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image": "0.png", "question": "a cat", "captions": ["a dog"]}, {"image": "1.png"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = predicted(capsys, captioner, "captioning", tmp_path / "rows.jsonl")
    assert lines == predicted(capsys, captioner, "captioning", *photos[:2])


def test_a_file_appears_when_all_is_done(fused: Path, photos: list[str], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.jsonl"
    assert predicted(capsys, fused, "vqa", *photos, "--question", "yes", "--out", out) == []
    assert [json.loads(line)["image"] for line in out.read_text().splitlines()] == photos


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vqua", "0.png"], "there is no task vqua: did you mean vqa? This checkpoint can do compositionality, grounding, "
                            "matching, retrieval, visual_entailment, vqa, zero_shot"),
        (["captioning", "0.png"], "captioning is not possible with this checkpoint: its model has no decoder. This checkpoint can"),
        (["cloze", "0.png"], "it only measures, and has no prediction for a single image"),
        (["vqa", "0.png"], "0.png: vqa needs --question TEXT"),
        (["vqa", "0.png", "--question", "a", "--answer", "b"], "an answer vocabulary of its own, of 3 answers"),
        (["zero_shot", "0.png"], "zero_shot needs the names of the classes: give --label NAME for each"),
        (["zero_shot", "0.png", "--label", "a", "--label", "a"], "'a' is given more than once"),
        (["nlvr2", "0.png", "--question", "a"], "its fusion takes 1 image at once and nlvr2 is about 2"),
        (["vqa", "pairs.jsonl"], "pairs.jsonl, line 1: vqa is about one image"),
        (["vqa", "gone.png", "--question", "a"], "gone.png: No such file"),
        (["vqa", "0.png", "cut.png", "--question", "a"], "cut.png: "),
        (["vqa", ".", "--question", "a"], ".: is a folder"),
        (["vqa", "bad.jsonl"], "bad.jsonl, line 2: there is no key 'picture'"),
        (["vqa", "0.png", "--question", "a", "--batch-size", "0"], "above 0"),
        (["vqa", "0.png", "--question", "a", "--out", "no/where.jsonl"], "there is no folder no"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_before_anything_is_written(
    fused: Path, photos: list[str], tmp_path: Path, capsys: Any, monkeypatch: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "bad.jsonl").write_text('{"image": "0.png", "question": "a"}\n{"picture": "1.png"}\n')
    (tmp_path / "pairs.jsonl").write_text('{"images": ["0.png", "1.png"], "question": "a"}')
    before = sorted(tmp_path.iterdir())
    assert main(["predict", str(fused), *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_without_what_a_task_needs(captioner: Path, photos: list[str], capsys: Any) -> None:
    assert main(["predict", str(captioner), "matching", photos[0], "--caption", "a dog"]) == 2
    assert "matching is not possible with this checkpoint: its model has no text" in capsys.readouterr().err
    assert main(["predict", str(captioner), "vqa", photos[0], "--question", "a dog"]) == 2
    assert "This checkpoint can do captioning\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.png", "rows.jsonl", "model.ckpt"])
def test_an_input_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png"}\n')
    (tmp_path / "model.ckpt").write_bytes(b"weights")
    before = (tmp_path / name).read_bytes()
    command = ["predict", str(tmp_path / "model.ckpt"), "retrieval", str(tmp_path / "rows.jsonl"), "--caption", "x"]
    assert main([*command, "--out", str(tmp_path / name)]) == 2
    assert "would be lost: choose another file to write" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before


WITHOUT_TEXT = {
    "segmentation": ["tasks.segmentation.segment_names=[sky,road]", "tasks.segmentation.states_width=128"],
    "detection": ["tasks.detection.class_names=[cat,dog]", "tasks.detection.states_width=128"],
}


@pytest.mark.parametrize("task", list(WITHOUT_TEXT))
def test_a_model_without_texts_needs_no_vocabulary(
    task: str, tmp_path: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.ckpt"
    words = [f"tasks.{task}.embed_width=0", f"tasks.{task}.level_widths=[]"]
    saved(path, "model=vision_tiny", "objective=[]", f"task=[{task}]", *WITHOUT_TEXT[task], *words, vocabulary=False)
    lines = predicted(capsys, path, task, *photos)
    assert [line["image"] for line in lines] == photos
    if task == "segmentation":
        assert all(sum(share for _, share in line["classes"]) == pytest.approx(1) for line in lines)


def test_a_folder_of_eomt_needs_no_vocabulary(
    shared: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="preprocessor_config"):  # which the folder lacks
        lines = predicted(capsys, shared / "reference/eomt", "panoptic", *photos)
    assert [line["image"] for line in lines] == photos


def test_ranks_of_dialogues_as_lines_and_as_the_leaderboards_file(
    tmp_path: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved(tmp_path / "a.ckpt", "model=encoder_decoder_vqa_tiny", "objective=[]", "task=[visual_dialogue]")
    rounds = [
        {
            "image": photos[0],
            "history": ["a photo.", "is it red? yes."],
            "question": "is it a dog?",
            "image_id": 7,
            "round_id": 2,
        },
        {"image": photos[1], "question": "is there a cat?", "image_id": 9, "round_id": 1},
    ]
    inputs = tmp_path / "rounds.jsonl"
    inputs.write_text("".join(json.dumps(one | {"choices": ["yes", "no", "a red cat"]}) + "\n" for one in rounds))
    lines = predicted(capsys, checkpoint, "visual_dialogue", inputs)
    assert [(line["image_id"], line["round_id"]) for line in lines] == [(7, 2), (9, 1)]
    for line in lines:
        assert sorted(line["ranks"]) == [1, 2, 3]
        assert line["answer"] == line["choices"][line["ranks"].index(1)]
    out = tmp_path / "ranks.json"
    assert main(["predict", str(checkpoint), "visual_dialogue", str(inputs), "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == [
        {key: line[key] for key in ("image_id", "round_id", "ranks")} for line in lines
    ]
    inputs.write_text(json.dumps({"image": photos[0], "question": "what?", "choices": ["yes", "no"]}) + "\n")
    assert main(["predict", str(checkpoint), "visual_dialogue", str(inputs), "--out", str(out)]) == 2
    assert "needs image_id and round_id of each line" in capsys.readouterr().err
