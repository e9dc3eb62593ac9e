"""A teacher's table of embeddings: its own transform and tokenizer, unaugmented pictures, equal on any number of processes."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest
import torch

from tests.processes import run_processes
from tests.towers import ToyText, toy_model
from vlp.data.datamodule import DataModule
from vlp.data.transforms import EvalTransform, TrainTransform
from vlp.models.teacher import EmbeddingTable, Teacher
from vlp.structures import Image, Sample
from vlp.system.errors import UserError
from vlp.tokenizers.trained import TrainedTokenizer

WORDS = ("red", "green", "blue", "dark", "light")


class Captioned(DataModule):
    """130 pictures of 13 colours in files of their own; sample i has captions i and i + 1 of five."""

    def samples(self, split: str) -> list[Sample]:
        if split != "train":
            return []
        samples = []
        for index in range(130):
            file = self.root / f"{index}.png"
            if not file.exists():
                PIL.Image.new("RGB", (9, 7), (index % 13 * 19, 40, 200 - index % 13 * 10)).save(file)
            captions = tuple(f"a {WORDS[(index + shift) % 5]} square" for shift in range(2))
            samples.append(Sample(id=index, sample=index, image=file, captions=captions))
        return samples


def captioned(root: Path) -> Captioned:
    root.mkdir(exist_ok=True)
    transform = {"train": TrainTransform(image_size=4), "eval": EvalTransform(image_size=4)}
    return Captioned(name="toy", root=root, transform=transform)


def make_teacher(**parts: None) -> Teacher:
    model = toy_model()
    model.text = ToyText(vocabulary=270)
    for part, value in parts.items():
        setattr(model, part, value)
    tokenizer = TrainedTokenizer(size=270, context_length=8)
    tokenizer.train([f"a {word} square" for word in WORDS])
    torch.manual_seed(2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Teacher(
        name="large",
        model=model,
        transform=EvalTransform(image_size=4),
        tokenizer=lambda: tokenizer,
        path="large.ckpt",
        sha256="0",
    )


def table(teacher: Teacher, data: DataModule, folder: Path | None = None) -> EmbeddingTable:
    return teacher.embed_training_data(data, ["image", "text"], device=torch.device("cpu"), folder=folder)


def test_rows_are_what_the_teacher_makes_of_each_picture_and_caption(tmp_path: Path) -> None:
    teacher, data = make_teacher(), captioned(tmp_path / "data")
    samples = [data.split("train")[index] for index in (100, 3, 3)]
    captions = ["a blue square", "a red square"]
    found = table(teacher, data)(samples, captions)
    pixels = torch.stack([teacher.transform(PIL.Image.open(sample.image)) for sample in samples])
    image = teacher.model.embed_image(teacher.model.encode_image(Image(pixels=pixels)))
    text = teacher.model.embed_text(teacher.model.encode_text(teacher.tokenizer()(captions)))
    torch.testing.assert_close(found.image, image)
    torch.testing.assert_close(found.text, text)
    assert teacher.width == 5
    assert teacher.logit_scale == pytest.approx(float(teacher.model.projection.scale()))


def _tables(rank: int, world: int, folder: str) -> dict[str, torch.Tensor]:
    found = table(make_teacher(), captioned(Path(folder)))
    return {"images": found.images, "texts": found.texts}


def test_two_processes_have_the_table_of_one_bit_by_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    captioned(tmp_path / "data").split("train")
    expected = _tables(0, 1, str(tmp_path / "data"))
    for rank in run_processes(2, _tables, tmp_path / "out", str(tmp_path / "data")):
        assert all(torch.equal(rank[name], expected[name]) for name in expected)


def test_a_folder_keeps_embeddings_and_a_changed_teacher_does_not_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = captioned(tmp_path / "data"), tmp_path / "features"
    first = table(make_teacher(), data, folder)
    teacher = make_teacher()
    calls: list[str] = []
    forward = Teacher._forward
    monkeypatch.setattr(
        Teacher, "_forward", lambda self, side, inputs: calls.append(side) or forward(self, side, inputs)
    )
    again = table(teacher, data, folder)
    assert not calls
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.texts, again.texts)
    with torch.no_grad():
        teacher.model.text.net.weight.mul_(2)  # type: ignore[union-attr, operator]
    table(teacher, data, folder)
    assert set(calls) == {"text"}


def test_a_picture_that_cannot_be_read_is_an_error_only_where_training_reads_it(tmp_path: Path) -> None:
    data = captioned(tmp_path / "data")
    data.split("train")
    (tmp_path / "data" / "7.png").write_bytes(b"no picture")
    found = table(make_teacher(), data)
    samples = data.split("train")
    assert bool(found([samples[6], samples[8]], []).image.isfinite().all())
    with pytest.raises(UserError, match=r"large could not read .*7\.png"):
        found([samples[6], samples[7]], [])
    with pytest.raises(UserError, match="no embedding of 'something else'"):
        found([], ["something else"])


@pytest.mark.parametrize(("part", "side"), [("text", "text"), ("vision", "image")])
def test_a_teacher_without_a_tower_is_refused(part: str, side: str, tmp_path: Path) -> None:
    teacher = make_teacher(**{part: None})
    with pytest.raises(UserError, match=rf"^teachers.large=large.ckpt has no {side} tower to learn from"):
        teacher.check(["image", "text"])
    teacher.check(["text" if side == "image" else "image"])


def test_a_tower_alone_teaches_its_pooled_feature() -> None:
    teacher = make_teacher(text=None, projection=None)
    assert teacher.width == 8
    assert teacher.logit_scale is None
    embed = teacher._forward("image", Image(pixels=torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)))
    torch.testing.assert_close(embed.norm(dim=1), torch.ones(3))
