"""Training and evaluation on a mixture: each source by itself, with figures named after it."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.mixtures import Pictures, mixture
from tests.processes import run_processes
from tests.towers import toy_model
from vlp.data.mixture import Mixture
from vlp.data.parts import eval_split_statistics
from vlp.data.transforms import EvalTransform
from vlp.distributed import gather_objects
from vlp.launch.config.layout import wrong_monitor
from vlp.launch.runs.results import protocol_card
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.objectives.itc import ITC
from vlp.report.tables import print_results
from vlp.structures import Batch, Features, Loss
from vlp.tasks.base import Task
from vlp.tokenizers.trained import TrainedTokenizer
from vlp.training.evaluator import Measurement
from vlp.training.module import VisionLanguageModule
from vlp.training.optimizer import AdamW


class Answering(Objective):
    """The length of the answers from the picture: any loss on questions will do."""

    requires = ("image", "question", "answer")
    uses = ("image_embed",)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        assert batch.answer is not None
        assert features.image_embed is not None
        lengths = batch.answer.mask.flatten(1).sum(1)
        return Loss(value=(features.image_embed.sum(1) - lengths).square().mean())


class Counting(Task):
    """How many samples it saw, and what it was prepared for."""

    uses = ("image_embed",)

    def __init__(self, field: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.requires = ("image", field)
        self.prepared: list[str] = []

    def reset(self) -> None:
        self.seen: list[int] = []

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        self.prepared.append(data.name)

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        assert features.image_embed is not None
        self.seen += batch.sample.tolist()

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        everyone = [sample for part in gather_objects(self.seen) for sample in part]
        assert len(set(everyone)) == len(everyone)
        return {"samples": float(len(everyone))}

    def figures(self) -> dict[str, object]:
        return {"seen": list(self.seen)}


def module(**tasks: Task) -> VisionLanguageModule:

    model = toy_model()
    model.text.embedding = torch.nn.Embedding(300, 6)
    model.vision.net[0] = torch.nn.Linear(3 * 8 * 8, 16)
    objectives: dict[str, Objective] = {"itc": ITC(), "answering": Answering(weight=0.5)}
    return VisionLanguageModule(model=model, objectives=objectives, tasks=tasks, optimizer=AdamW(lr=1e-2))


class Logs(L.Callback):
    def __init__(self) -> None:
        self.names: set[str] = set()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.names |= {name for name in trainer.callback_metrics if name.startswith("train/")}


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=list(callbacks), use_distributed_sampler=False, **quiet, **options
    )


def evaluated(how: str, measured: VisionLanguageModule, data: Mixture) -> dict[str, float]:
    made = trainer()
    getattr(made, how)(measured, data, verbose=False)
    return {name: float(value) for name, value in made.callback_metrics.items()}


@pytest.mark.filterwarnings("ignore")
def test_objectives_run_on_the_sources_that_have_their_fields(tmp_path: Path) -> None:
    logs = Logs()
    trained = module()
    trainer(logs).fit(trained, mixture(tmp_path, sources={"rare": None}, tokenizer=TrainedTokenizer(size=300)))
    assert {name for name in logs.names if name.endswith("/loss")} == {
        "train/words/itc/loss",
        "train/asked/answering/loss",
    }
    assert trained.samples_seen == 3 * (4 + 2)


@pytest.mark.filterwarnings("ignore")
def test_each_source_is_measured_by_itself(tmp_path: Path) -> None:
    more = functools.partial(Pictures, count=9, batch_size=2, evaluated=4, root=tmp_path)
    tokenizer = TrainedTokenizer(size=300)
    tokenizer.train(["a word"])
    data = mixture(tmp_path, sources={"more": more}, tokenizer=tokenizer)
    counts = {
        "captions": Counting("caption"),
        "questions": Counting("question"),
        "some": Counting("image", sources=["more"]),
    }
    measured = module(**counts)
    figures = evaluated("validate", measured, data)
    assert figures == {
        "val/words/captions/samples": 3.0, "val/asked/questions/samples": 3.0, "val/more/captions/samples": 4.0,
        "val/more/some/samples": 4.0,
    }  # fmt: skip
    assert counts["captions"].prepared == ["words", "asked", "more"]
    assert counts["some"].prepared == ["more"]
    assert set(measured.measurement.pictured) == {
        ("words", "captions"), ("asked", "questions"), ("more", "captions"), ("more", "some"),
    }  # fmt: skip
    assert measured.measurement.pictured["asked", "questions"] == {"seen": [1000, 1001, 1002]}
    assert set(evaluated("test", measured, data)) == {name.replace("val/", "test/") for name in figures}


def test_a_task_that_no_source_can_feed_is_named(tmp_path: Path) -> None:
    data = mixture(tmp_path)
    data.setup()
    tasks = {"boxed": Counting("boxes")}
    with pytest.warns(UserWarning, match="boxed was not measured: batches of words, asked lack one of image, boxes"):
        assert (
            Measurement(model=toy_model(), tasks=tasks, sources=data.sources_with_split("val"), tokenizer=None).finish()
            == {}
        )


def ranks_measure(rank: int, world: int, root: str) -> dict[str, float]:
    """Three samples of two sources; rank 1 of 2 has only one batch of each, and of three samples it has one."""
    one = functools.partial(Pictures, count=9, batch_size=2, evaluated=1, root=root)
    data = mixture(Path(root), sources={"one": one, "last": functools.partial(one, asks=True)})
    data.setup("validate")
    counts = {"captions": Counting("caption"), "questions": Counting("question")}
    model = module().model
    measurement = Measurement(model=model, tasks=counts, sources=data.sources_with_split("val"), tokenizer=None)
    for source, loader in enumerate(data.val_dataloader()):
        for batch in loader:  # none at all of `one` and `last` on the second rank
            measurement.update(batch, source=source, step=0)
    return measurement.finish()


def test_a_rank_without_samples_of_a_source_joins_in(tmp_path: Path) -> None:
    mixture(tmp_path)
    expected = ranks_measure(0, 1, str(tmp_path))
    assert expected == {
        "words/captions/samples": 3.0, "asked/questions/samples": 3.0, "one/captions/samples": 1.0,
        "last/questions/samples": 1.0,
    }  # fmt: skip
    assert run_processes(2, ranks_measure, tmp_path / "out", str(tmp_path)) == [expected, expected]


def test_the_protocol_card_tells_of_each_source(tmp_path: Path) -> None:
    data = mixture(tmp_path)
    data.setup()
    values = protocol_card({"seed": 3, "monitor": "x"}, data.name, eval_split_statistics(data))
    assert values["data"] == "mix"
    assert (values["val/words/images"], values["val/words/captions"]) == (3, 6)
    assert (values["test/asked/images"], values["test/asked/questions"]) == (3, 3)
    assert values["val/asked/sha256"] == data.sources["asked"].fingerprint("val") != values["val/words/sha256"]
    assert not any(name.startswith(("val/rare", "test/rare")) for name in values)
    assert "val/sha256" not in values


def test_the_printed_table_keeps_sources_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {f"test/{source}/retrieval/{name}_r1": value for source, value in (("coco", 41.5), ("flickr", 62.5))
               for name in ("image_to_text", "text_to_image", "chance_image_to_text")}  # fmt: skip
    print_results({**figures, "test/asked/vqa/accuracy": 71.25, "seconds": 3.0, "data": "mix"}, tmp_path)
    printed = capsys.readouterr().out
    for words in ("coco, test split", "41.5", "flickr, test split", "62.5", "asked vqa, accuracy: 71.2"):
        assert words in printed


def test_the_monitor_names_a_source_of_the_mixture() -> None:
    data = {"name": "mixture", "sources": {"coco": {}, "off": None, "asked": {"a": 1}}}
    data["sources"]["coco"] = {"a": 1}
    config = {"data": data, "tasks": {"retrieval": {"_target_": "x"}}, "monitor": "val/coco/retrieval/rsum"}
    assert wrong_monitor(config) is None
    for wrong in ("mixture", "off"):
        sentence = wrong_monitor(config | {"monitor": f"val/{wrong}/retrieval/rsum"}) or ""
        assert re.search(r"sources are coco, asked: .* monitor=val/coco/retrieval/rsum", sentence)
    assert wrong_monitor(config | {"data": {"name": "scenes"}, "monitor": "val/scenes/retrieval/rsum"}) is None


def test_transforms_reach_every_source(tmp_path: Path) -> None:
    data = mixture(tmp_path, transform={"train": EvalTransform(image_size=8), "eval": EvalTransform(image_size=4)})
    data.setup()
    sizes = {tuple(batch.image.pixels.shape[-2:]) for loader in data.val_dataloader() for batch in loader}
    assert sizes == {(4, 4)}
