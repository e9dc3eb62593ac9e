"""Two evaluations of one checkpoint are equal, not nearly: every figure and every entry of the card but the durations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from tests.behaviour.test_nonfinite_figures import measure
from tests.behaviour.test_parts_of_splits import evaluated
from tests.behaviour.test_world_evaluation import TOKENIZER, tasks, toy, write_images
from tests.prediction.test_command import CAPTIONER, saved
from vlp.models.fusion.cross import CrossFusion
from vlp.structures import Batch, Features, Image
from vlp.tasks.nlvr2 import NLVR2

ALBEF = ["model=albef_tiny", "objective=[itc,itm,mlm]", "task=[retrieval]"]
VQA = ["model=encoder_decoder_vqa_tiny", "objective=[lm]", "task=[vqa]"]
SCENES = [
    "data.images.train=8",
    "data.images.val=2",
    "data.images.test=6",
    "data.eval_batch_size=4",
    "data.num_workers=0",
]
CASES: dict[str, tuple[list[str], list[str]]] = {
    "captions": (ALBEF, ["data=scenes", "task=[retrieval,matching,compositionality]", "tasks.retrieval.rerank=3", *SCENES]),
    "captioning": (CAPTIONER, ["data=scenes", "task=[captioning]", "tasks.captioning.max_length=8", *SCENES]),
    "answers": (VQA, ["data=scenes_vqa", "task=[vqa]", *SCENES]),
    "zero_shot": (ALBEF, ["data=class_folders", "task=[zero_shot]", "data.num_workers=0"]),
}  # fmt: skip


def without_durations(results: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if not key.endswith(("seconds", "per_second"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluations")
    for number in range(6):
        for split in ("train", "test"):
            path = folder / "classes" / split / ("dog", "cat")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (70, 64), (40 * number, 10, 90)).save(path)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_results_are_equal(folder: Path, tmp_path: Path, case: str) -> None:
    model, settings = CASES[case]
    checkpoint = saved(tmp_path / "a.ckpt", *model)
    root = folder / ("classes" if case == "zero_shot" else "scenes")
    options = (f"checkpoint={checkpoint}", f"data.root={root}", *settings)
    if case == "zero_shot":
        options += ("data.splits.val=null",)
    first, second = (without_durations(evaluated(tmp_path / name, *options)[0]) for name in ("first", "second"))
    assert any(name.startswith("test/") and name.count("/") == 3 for name in first)
    assert first == second


@pytest.mark.parametrize(
    ("kind", "name"), [("sentences", "visual_entailment"), ("questions", "vqa"), ("captions", "cloze")]
)
def test_figures_of_tasks_on_other_data_are_equal(tmp_path: Path, kind: str, name: str) -> None:
    write_images(tmp_path)
    first, second = (measure(toy(), tasks(tmp_path)[kind][name], kind, tmp_path) for _ in range(2))
    assert first == second


def test_sentences_about_two_images_are_answered_equally() -> None:
    model = toy()
    model.fusion = CrossFusion(
        image_width=8, text_width=6, width=4, layers=2, heads=2, hidden_width=6, dropout=0.0, images=2
    ).eval()
    torch.manual_seed(0)
    task, ids = NLVR2(width=4, head="albef").eval(), torch.arange(8)
    image = Image(pixels=torch.randint(0, 256, (8, 2, 3, 4, 4), dtype=torch.uint8))
    text = TOKENIZER([f"a red circle {number}" for number in range(8)])
    batch = Batch(id=ids, sample=ids, seed=ids, image=image, question=text, label=ids % 2)
    figures = []
    for _ in range(2):
        task.reset()
        task.update(model, batch, Features())
        figures.append(task.compute(model))
    assert figures[0] == figures[1]
