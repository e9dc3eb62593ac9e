"""Mixtures: every source at each step, the same stream after a restart and on any number of processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.mixtures import Pictures, Words, mixture
from tests.processes import run_processes
from vlp.data.datamodule import DataModule
from vlp.data.mixture import Mixture
from vlp.data.transforms import EvalTransform
from vlp.launch.config.compose import Composer, conf_folder
from vlp.structures import Batch
from vlp.training.lifecycle.restart import move_between_steps

Stream = list[dict[str, tuple[list[int], int]]]


def ids_and_seeds(batch: dict[str, Batch]) -> dict[str, tuple[list[int], int]]:
    return {name: (part.sample.tolist(), int(part.seed.sum() % 2**40)) for name, part in batch.items()}


def epochs(data: Mixture, count: int) -> Stream:
    data.setup("fit")
    seen: Stream = []
    for epoch in range(count):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        seen += [ids_and_seeds(batch) for batch in loader]
    return seen


def test_every_step_has_every_source_and_each_counts_its_own_epochs(tmp_path: Path) -> None:
    seen = epochs(mixture(tmp_path), 3)
    assert len(seen) == 9
    assert all(list(step) == ["words", "asked", "rare"] for step in seen)
    assert {name: len(ids) for name, (ids, _) in seen[0].items()} == {"words": 4, "asked": 2, "rare": 2}
    for name, steps in (("words", 3), ("asked", 2), ("rare", 20)):
        for first in range(0, 9, steps):  # within an epoch of the source no sample comes twice
            ids = [i for step in seen[first : first + steps] for i in step[name][0]]
            assert len(set(ids)) == len(ids)
    assert seen[0]["asked"] != seen[2]["asked"] != seen[4]["asked"], "its second epoch has another order"


def test_a_source_is_trained_on_as_it_is_alone(tmp_path: Path) -> None:
    seen = epochs(mixture(tmp_path), 2)
    alone = mixture(tmp_path, sources={"asked": None, "rare": None})
    assert [step["words"] for step in seen] == [step["words"] for step in epochs(alone, 2)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_stream_does_not_depend_on_workers(tmp_path: Path, workers: int) -> None:
    assert epochs(mixture(tmp_path, workers=workers), 3) == epochs(mixture(tmp_path), 3)


def test_an_epoch_may_be_a_number_of_steps_or_another_sources(tmp_path: Path) -> None:
    whole = epochs(mixture(tmp_path), 7)
    assert epochs(mixture(tmp_path, epoch=5), 4) == whole[:20]
    assert epochs(mixture(tmp_path, epoch="rare"), 1) == whole[:20]


def test_an_epoch_that_was_left_early_does_not_shift_the_next(tmp_path: Path) -> None:
    whole = epochs(mixture(tmp_path), 2)
    data = mixture(tmp_path)
    data.setup("fit")
    next(iter(data.train_dataloader()))
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    assert [ids_and_seeds(batch) for batch in loader] == whole[3:]


class Recorder(L.LightningModule):
    """Notes what it is trained on."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: Stream = []
        self.fail_at = fail_at

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        move_between_steps(checkpoint)

    def training_step(self, batch: dict[str, Batch], index: int) -> torch.Tensor:
        if self.global_step == self.fail_at:
            raise KeyboardInterrupt
        self.seen.append(ids_and_seeds(batch))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: Mixture, module: Recorder, folder: Path, checkpoint: Path | None = None) -> L.Trainer:
    save = L.pytorch.callbacks.ModelCheckpoint(
        dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1, enable_version_counter=False
    )
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, callbacks=[save], enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=None if checkpoint is None else str(checkpoint))
    return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_resumes_within_the_epochs_of_all_sources(tmp_path: Path, workers: int) -> None:
    def run(resume_after: int | None = None) -> Stream:
        module = Recorder()
        checkpoint = None if resume_after is None else tmp_path / "saved" / f"step={resume_after}.ckpt"
        fit(mixture(tmp_path, workers=workers), module, tmp_path / "saved", checkpoint)
        return module.seen

    straight = run()
    assert straight == epochs(mixture(tmp_path), 3)
    # each run writes the checkpoints after its start again, so that later ones come from runs resumed several times
    for steps in (1, 2, 3, 4, 6, 8):
        assert run(resume_after=steps) == straight[steps:], f"resumed after {steps} steps"


@pytest.mark.filterwarnings("ignore")
def test_a_step_that_was_interrupted_is_trained_on_again(tmp_path: Path) -> None:
    straight = epochs(mixture(tmp_path), 3)
    module = Recorder(fail_at=4)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(data := mixture(tmp_path), module, tmp_path / "saved")
    state = data.state_dict()
    assert (state["epoch"], state["step"]) == (1, 1)
    position = {"epoch": 2, "consumed": 0, "length": 5, "batch_size": 2, "seed": 3}
    assert state["sources"]["asked"] == {**position, "identity": data.sources["asked"].identity()}
    again = mixture(tmp_path)
    again.setup("fit")
    again.load_state_dict(state)
    assert [ids_and_seeds(batch) for batch in again.train_dataloader()] == straight[4:6]


def test_a_position_in_another_mixture_is_refused(tmp_path: Path) -> None:
    data = mixture(tmp_path)
    epochs(data, 1)
    state = data.state_dict()
    for changed, message in (
        (
            {"sources": {"rare": None}},
            "the run mixed words, asked, rare in epochs of 3 steps, this one mixes words, asked",
        ),
        ({"epoch": 7}, "in epochs of 7;"),
        ({"seed": 4}, "seed 3 became 4"),
    ):
        other = mixture(tmp_path, **changed)  # type: ignore[arg-type]
        other.setup("fit")
        with pytest.raises(ValueError, match=f"cannot resume within the data: .*{message}"):
            other.load_state_dict(state)


def rank_stream(rank: int, world: int, root: str) -> Stream:
    return epochs(mixture(Path(root)), 2)


def test_two_processes_see_the_global_batches_of_one(tmp_path: Path) -> None:
    mixture(tmp_path)
    whole = epochs(mixture(tmp_path), 2)
    parts = run_processes(2, rank_stream, tmp_path / "out", str(tmp_path))
    assert len(parts[0]) == len(parts[1]) == len(whole)
    for step, first, second in zip(whole, *parts, strict=True):
        for name, (ids, seed) in step.items():
            assert sorted(first[name][0] + second[name][0]) == sorted(ids)
            assert (first[name][1] + second[name][1]) % 2**40 == seed


def test_evaluation_goes_through_the_sources_that_have_the_split(tmp_path: Path) -> None:
    data = mixture(tmp_path)
    data.setup()
    for split, loaders in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        assert list(data.sources_with_split(split)) == ["words", "asked"]
        assert [sum(len(batch) for batch in loader) for loader in loaders] == [3, 3]
        assert len(data.split(split)) == 6
    assert [batch.question is not None for loader in data.val_dataloader() for batch in loader] == [
        False,
        False,
        True,
        True,
    ]
    assert data.answer_names == ("yes", "no")
    assert data.class_names is None
    assert {name: source.name for name, source in data.sources.items()} == {n: n for n in ("words", "asked", "rare")}


def test_one_tokenizer_learns_from_all_sources(tmp_path: Path) -> None:
    class Untrained(Words):
        trained = False

        def train(self, texts: Any) -> None:
            assert not self.trained, "it is trained once"
            self.seen, self.trained = list(texts), True

    data = mixture(tmp_path, tokenizer=Untrained())
    data.setup("fit")
    data.setup("fit")
    assert set(data.tokenizer.seen) == {"a words", "a rare", "it", "is it?", "yes"}
    assert all(source.tokenizer is data.tokenizer for source in data.sources.values())


def test_ratios_share_out_a_step(tmp_path: Path) -> None:
    data = mixture(tmp_path, batch_size=10, ratios={"words": 2, "asked": 1, "rare": 2})
    data.setup("fit")
    assert {name: len(part) for name, part in next(iter(data.train_dataloader())).items()} == {
        "words": 4, "asked": 2, "rare": 4,
    }  # fmt: skip


def test_a_temperature_shares_out_a_step_by_size(tmp_path: Path) -> None:
    shares = []
    for temperature in (1.0, float("inf")):
        data = mixture(tmp_path, batch_size=12, temperature=temperature)
        data.setup("fit")
        counts = [len(source.split("train")) for source in data.sources.values()]
        sizes = [len(part) for part in next(iter(data.train_dataloader())).values()]
        assert sum(sizes) == 12
        assert sizes == [source.batch_size for source in data.sources.values()]
        shares.append((counts, sizes))
    (counts, by_size), (_, equal) = shares
    assert all(abs(size - 12 * count / sum(counts)) <= 1 for size, count in zip(by_size, counts, strict=True))
    assert equal == [4, 4, 4]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": 0.5, "batch_size": 9}, r"data\.temperature=0\.5: give 1 \(by size\) or more"),
        ({"temperature": 2.0}, r"data\.temperature needs data\.batch_size, .* all 3 sources"),
        (
            {"temperature": 2.0, "batch_size": 9, "ratios": {"words": 1, "asked": 1, "rare": 1}},
            "set one of them to null",
        ),
        ({"batch_size": 10}, "set both, with a ratio for each source, or neither"),
        ({"batch_size": 10, "ratios": {"words": 1}}, "set both, with a ratio for each source"),
        ({"batch_size": 10, "ratios": {"words": 1, "asked": 1, "rare": 1}}, r"must give integers .*words 3\.33"),
        ({"epoch": "coco"}, r"data\.epoch=coco: give a source \(words, asked, rare\)"),
        ({"epoch": 0}, r"data\.epoch=0: give a source"),
        ({"sources": {"words": None, "asked": None, "rare": None}}, r"data\.sources is empty"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture(tmp_path, **changed)


def test_an_error_of_a_source_names_it(tmp_path: Path) -> None:
    make: Callable[..., DataModule] = functools.partial(Pictures, count=3, root=tmp_path, batch_size=4)
    with pytest.raises(ValueError, match=r"data\.sources\.asked: .* too few for one batch of 4"):
        mixture(tmp_path, sources={"asked": make}).setup("fit")


def test_sources_with_different_vocabularies_have_no_common_one(tmp_path: Path) -> None:
    data = mixture(tmp_path)
    data.setup()
    data.sources["rare"].answer_names = ("maybe",)
    with pytest.raises(ValueError, match="asked and rare differ in their answer names"):
        _ = data.answer_names


def test_bad_images_of_all_sources_are_listed_in_one_file(tmp_path: Path) -> None:
    data = mixture(tmp_path)
    data.issues_path = tmp_path / "issues.jsonl"
    assert {source.issues_path for source in data.sources.values()} == {data.issues_path}
    data.setup("fit")
    assert data.bad_samples == 0


def test_a_source_may_have_a_transform_of_its_own(tmp_path: Path) -> None:
    own = {"train": EvalTransform(image_size=4), "eval": EvalTransform(image_size=4)}
    common = {"train": EvalTransform(image_size=8), "eval": EvalTransform(image_size=8)}
    make = {
        "usual": functools.partial(Pictures, count=4, root=tmp_path, batch_size=2),
        "small": functools.partial(Pictures, count=4, root=tmp_path, batch_size=2, transform=own),
    }
    data = Mixture(name="both", sources=make, transform=common, tokenizer=Words())
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert {name: part.image.pixels.shape[-1] for name, part in batch.items()} == {"usual": 8, "small": 4}


def test_the_command_line_gives_a_source_its_transform() -> None:
    ids_and_seeds = Composer(conf=conf_folder(), config_name="train").compose(
        ["data=mixture", "+transform@data.sources.scenes.transform=photos", "task=[vqa]", "objective=[itc]"]
    )
    assert ids_and_seeds.data.sources.scenes.transform.train.flip is True
    assert ids_and_seeds.transform.train.flip is False


def test_settings_of_an_unknown_source_are_told(tmp_path: Path) -> None:
    make = {"usual": functools.partial(Pictures, count=4, root=tmp_path, batch_size=2), "usal": {"transform": {}}}
    with pytest.raises(ValueError, match=r"data\.sources\.usal has settings.*did you mean usual\?"):
        Mixture(name="both", sources=make, transform={}, tokenizer=Words())  # type: ignore[dict-item]
