from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import PIL.Image
import pytest
import torch

from vlp.data.datamodule import DataModule
from vlp.data.images import ImageError
from vlp.data.packed_samples import PackedSamples
from vlp.data.transforms import EvalTransform, TrainTransform
from vlp.models.probes.subsets import fraction
from vlp.structures import Batch, Sample
from vlp.system.errors import UserError
from vlp.training.lifecycle.restart import move_between_steps

Toy = Callable[..., DataModule]


def fields(batch: Batch) -> list[torch.Tensor]:
    assert batch.image is not None
    assert batch.caption is not None
    return [batch.id, batch.sample, batch.seed, batch.image.pixels, batch.caption.ids, batch.caption.mask]


def train_batches(data: DataModule, epoch: int = 0) -> list[Batch]:
    data.setup("fit")
    assert data.sampler is not None
    data.sampler.set_epoch(epoch)
    return list(data.train_dataloader())


def test_batches_do_not_depend_on_workers_or_on_earlier_draws(toy: Toy) -> None:
    batches = train_batches(toy())
    torch.rand(7)
    again = train_batches(toy(num_workers=2))
    assert len(batches) == len(again) == 3
    for one, other in zip(batches, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(fields(one), fields(other), strict=True))


def test_loading_leaves_the_global_generator_alone(toy: Toy) -> None:
    data = toy()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train_batches(data)
    assert torch.equal(torch.rand(3), expected)


def test_views_and_captions_change_from_epoch_to_epoch(toy: Toy) -> None:
    seen: dict[int, set[bytes]] = {}
    for epoch in range(20):
        for batch in train_batches(toy(), epoch):
            assert batch.caption is not None
            assert batch.caption.ids.ndim == 2
            assert batch.raw is None
            for identity, ids in zip(batch.id.tolist(), batch.caption.ids, strict=True):
                seen.setdefault(identity, set()).add(bytes(ids[ids > 2].tolist()))
    assert len(seen) == 13
    assert all(text.startswith(f"{identity} caption".encode()) for identity, texts in seen.items() for text in texts)
    assert max(map(len, seen.values())) == 4


def test_each_caption_a_sample(toy: Toy) -> None:
    batches = train_batches(toy(captions="all"))
    assert len(batches) == (13 * 3 + 6) // 4
    assert all(len(set(batch.id.tolist())) == 4 for batch in batches)
    texts = [bytes(row[row > 2].tolist()) for batch in batches for row in batch.caption.ids]  # type: ignore[union-attr]
    assert len(set(texts)) == len(texts)


def test_several_captions_an_image(toy: Toy) -> None:
    batch = train_batches(toy(captions=2))[0]
    assert batch.caption is not None
    assert batch.caption.ids.shape[:2] == (4, 2)
    assert not torch.equal(batch.caption.ids[:, 0], batch.caption.ids[:, 1])


def test_evaluation_holds_every_caption_and_the_raw_samples(toy: Toy) -> None:
    data = toy()
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.caption is not None
    assert batch.raw is not None
    counts = [len(sample.captions) for sample in batch.raw]
    assert counts == [3, 4, 3]
    assert batch.caption.ids.shape[:2] == (3, 4)
    assert batch.caption.mask.any(-1).sum(1).tolist() == counts
    rows, owner = batch.caption.real_rows()
    assert owner.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert bytes(rows.ids[3][rows.ids[3] > 2].tolist()) == batch.raw[1].captions[0].encode()[:14]
    assert [len(b) for b in data.val_dataloader()] == [] or data.split("val")
    assert sum(len(b) for b in data.val_dataloader()) == 5


def test_choices_and_categories(tmp_path: Path, loading: dict[str, Any]) -> None:
    class Two(DataModule):
        class_names = ("a", "b", "c")

        def samples(self, split: str) -> list[Sample]:
            PIL.Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
            common = {"image": tmp_path / "x.png", "captions": ("hello",)}
            return [
                Sample(id=1, sample=0, choices=("right", "wrong one"), categories=(0, 2), **common),
                Sample(id=2, sample=1, choices=("x",), **common),
            ]

    data = Two(root=tmp_path, **loading)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.choices is not None
    assert batch.choices.mask.sum(-1).tolist() == [[7, 11], [3, 0]]
    assert batch.label is None
    assert batch.categories.tolist() == [[True, False, True], [False] * 3]


def break_images(data: DataModule, *numbers: int) -> None:
    for number in numbers:
        (data.root / "images" / f"{number}.png").write_bytes(b"<html>")


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_training_images_are_replaced_and_listed(toy: Toy, tmp_path: Path, workers: int) -> None:
    data = toy(num_workers=workers, max_bad_fraction=0.2, captions="all")
    break_images(data, 3, 12)
    data.issues_path = tmp_path / "data_issues.jsonl"
    ids = [identity for batch in train_batches(data) for identity in batch.id.tolist()]
    assert len(ids) == 44
    assert not {3, 12} & set(ids)
    issues = [json.loads(line) for line in data.issues_path.read_text().splitlines()]
    assert {Path(issue["file"]).name for issue in issues} == {"3.png", "12.png"}
    assert all(issue["reason"].startswith("not an image") for issue in issues)
    assert data.bad_samples == 2


def test_too_many_bad_training_images_end_the_run(toy: Toy) -> None:
    data = toy(max_bad_fraction=0.01)
    break_images(data, *range(13))
    warned = pytest.warns(UserWarning, match="skipped")
    with (
        warned,
        pytest.raises(ImageError, match=r"1 of 13 training images .* data.max_bad_fraction=0.01; .*png: not an image"),
    ):
        train_batches(data)


def test_a_bad_evaluation_image_is_an_error(toy: Toy) -> None:
    data = toy()
    break_images(data, 14)
    data.setup("validate")
    with pytest.raises(ImageError, match=r"would change the metric; .*14\.png: not an image"):
        list(data.val_dataloader())


def test_missing_images_are_found_before_the_first_step(toy: Toy) -> None:
    data = toy()
    for number in (0, 1, 2, 3, 4, 5, 18):
        (data.root / "images" / f"{number}.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"6 of 13 train images of toy are not on disk: .*/0.png, .*…; complete"
    ):
        data.setup("fit")
    with pytest.raises(FileNotFoundError, match="1 of 3 test images"):
        data.setup("test")


def test_wrong_settings_are_refused(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='choose "one", "all" or a number'):
        toy(captions="some")
    with pytest.raises(ValueError, match=r"too few for one batch of 64 .* data.batch_size to at most 13"):
        toy(batch_size=64).setup("fit")
    data = toy()
    data.root = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match=r"the folder of toy is missing: .* set data.root"):
        data.setup("fit")


def test_a_subset_is_fixed_and_the_fingerprint_tells_splits_apart(toy: Toy) -> None:
    data = toy(max_train_samples=6, seed=1)
    same = toy(max_train_samples=6, seed=2)
    assert [s.id for s in data.split("train")] == [s.id for s in same.split("train")]
    assert len(data.split("train")) == 6
    assert len({data.fingerprint(split) for split in ("train", "val", "test")}) == 3
    assert data.fingerprint("train") == same.fingerprint("train") != toy().fingerprint("train")


def test_a_draw_has_the_images_of_the_label_curve_and_is_nested(toy: Toy) -> None:
    every = [s.id for s in toy().split("train")]
    for draw in (0, 1):
        chosen = [s.id for s in toy(max_train_samples=6, train_draw=draw).split("train")]
        rows = fraction(len(every), 6 / len(every), seed=0, draw=draw).tolist()
        assert chosen == [every[row] for row in rows]
        assert {s.id for s in toy(max_train_samples=3, train_draw=draw).split("train")} < set(chosen)
    assert chosen != [s.id for s in toy(max_train_samples=6).split("train")]


def test_an_untrained_tokenizer_learns_from_the_training_captions_only(toy: Toy) -> None:
    data = toy()

    class Untrained(type(data.tokenizer)):  # type: ignore[misc]
        trained = False

        def train(self, captions: Any) -> None:
            self.seen, self.trained = list(captions), True

    data.tokenizer = Untrained()
    data.setup("fit")
    data.setup("fit")
    assert len(data.tokenizer.seen) == 13 * 3 + 6
    assert data.tokenizer.seen[0] == "0 caption 0"


def test_a_hanging_worker_is_an_error_that_says_what_to_do(toy: Toy) -> None:
    data = toy(num_workers=1, timeout=0.5)
    data.transform["train"] = lambda image: time.sleep(3)
    with pytest.raises(RuntimeError, match=r"no batch came from 1 data workers within data.timeout=0.5"):
        train_batches(data)


def test_packed_samples_come_back_equal() -> None:
    samples = [Sample(id=i, sample=i, image=Path(f"/a/{i}.jpg"), captions=("x",) * i) for i in range(5)]
    assert list(PackedSamples(samples)) == samples
    assert len(PackedSamples([])) == 0


class Recorder(L.LightningModule):
    """Notes what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[list[int], int]] = []

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        move_between_steps(checkpoint)

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        self.seen.append((batch.id.tolist(), int(batch.seed.sum())))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_resumes_with_the_samples_that_were_left(toy: Toy, tmp_path: Path, workers: int) -> None:
    def fit(resume_after: int | None = None) -> list[tuple[list[int], int]]:
        module = Recorder()
        save = L.pytorch.callbacks.ModelCheckpoint(
            dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, enable_version_counter=False
        )
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=3, logger=False, callbacks=[save], enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False,
        )  # fmt: skip
        checkpoint = None if resume_after is None else str(tmp_path / f"step={resume_after}.ckpt")
        trainer.fit(module, toy(num_workers=workers), ckpt_path=checkpoint)
        return module.seen

    straight = fit()
    assert len(straight) == 9
    # each run writes the checkpoints after its start again, so that later ones come from runs resumed several times
    for steps in (1, 2, 3, 4, 5, 6, 8):
        assert fit(resume_after=steps) == straight[steps:], f"resumed after {steps} steps"


def test_names_of_before_work_with_a_warning_and_an_override_that_nobody_would_call_is_refused(tmp_path: Path) -> None:
    transform = {"train": TrainTransform(image_size=8), "eval": EvalTransform(image_size=8)}
    data = DataModule(name="one", root=tmp_path, transform=transform)
    (tmp_path / "x.png").touch()
    with pytest.warns(FutureWarning, match="write resolve_path"):
        assert data.inside(tmp_path, "x.png", place="a list") == tmp_path / "x.png"
    with pytest.raises(TypeError, match=r"Old\.reading_ahead was renamed: name the method prefetcher"):
        type("Old", (DataModule,), {"reading_ahead": lambda self: None})


def test_a_draw_needs_a_number_of_samples(toy: Toy) -> None:
    with pytest.raises(UserError, match=r"set data\.max_train_samples too"):
        toy(train_draw=1)
    with pytest.raises(UserError, match="the number of a draw, 0 or more"):
        toy(max_train_samples=3, train_draw=-1)
