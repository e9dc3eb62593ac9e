"""Segmentation: the loss in closed form and on two processes, figures at the photo's size, texts, windows, files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.processes import run_processes
from tests.words import WordTokenizer
from vlp.data.view import View
from vlp.metrics.mean_iou import confusion_matrix, mean_iou
from vlp.models.features import compute_features
from vlp.models.projection.linear import LinearProjection
from vlp.models.text.clip_text import ClipText
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Image, Sample, Tokens
from vlp.system.errors import UserError
from vlp.tasks.segmentation import Segmentation

NAMES = ("red circle", "blue square", "two")
TOKENIZER = WordTokenizer()


@dataclasses.dataclass
class Data:
    """As much of a data module as the task reads."""

    segment_names: tuple[str, ...] | None = NAMES
    segment_ids: tuple[int, ...] | None = (7, 11, 200)
    name: str = "toy"


def model(vision: torch.nn.Module | None = None) -> VisionLanguageModel:
    torch.manual_seed(0)
    text = ClipText(vocabulary_size=TOKENIZER.size, context_length=16, width=12, layers=1, heads=2)
    vision = SmallCnn(image_size=16, channels=2) if vision is None else vision
    projection = LinearProjection(image_width=16, text_width=12, width=10)
    return VisionLanguageModel(vision=vision, text=text, projection=projection).double()


def task(**options: Any) -> Segmentation:
    torch.manual_seed(1)
    settings = {"channels": 4, "up": 1, "weight": 1.0, "embed_width": 10, **options}
    made = Segmentation(
        **{"segment_names": NAMES, "states_width": 16, "templates": ("a {}", "the {}"), **settings}
    ).double()
    return made


def batch(rows: slice = slice(0, 4), void: tuple[int, ...] = (3,)) -> Batch:
    """Four images of 16 pixels; every pixel of those in `void` is ignored, and some of the others."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (4, 3, 16, 16), generator=generator, dtype=torch.uint8)
    classes = torch.randint(0, 3, (4, 16, 16), generator=generator)
    classes[:, 0] = 255
    classes[list(void)] = 255
    index = torch.arange(4)
    made = Batch(id=index, sample=index, seed=index, image=Image(pixels=pixels), segmentation=classes)
    return Batch(
        id=index[rows], sample=index[rows], seed=index[rows], image=made.image.select(rows), segmentation=classes[rows]
    )


def loss(head: Segmentation, made: VisionLanguageModel, data: Batch) -> torch.Tensor:
    return head(made, data, compute_features(made, data, head.uses, levels=head.levels)).value


@pytest.mark.parametrize("head", ["linear", "pixels"])
def test_the_loss_is_the_mean_over_the_pixels_with_a_class(head: str) -> None:
    made, ours, data = model().eval(), task(head=head).eval(), batch()
    ours.prepare(made, TOKENIZER, Data())
    logits = ours.segmenter(made.encode_image(data.image))
    assert logits.shape[-1] == (2 if head == "linear" else 4)
    large = F.interpolate(logits, (16, 16), mode="bilinear")
    chosen = data.segmentation != 255
    rows = large.permute(0, 2, 3, 1)[chosen].log_softmax(-1)
    expected = -rows.gather(1, data.segmentation[chosen][:, None]).mean()
    torch.testing.assert_close(loss(ours, made, data), expected)


def test_weights_of_classes_in_the_loss() -> None:
    made, data = model().eval(), batch()
    ours = task(class_weights=[0.5, 2, 3]).eval()
    logits = F.interpolate(ours.segmenter(made.encode_image(data.image)), (16, 16), mode="bilinear")
    each = F.cross_entropy(logits, data.segmentation, ignore_index=255, reduction="none")
    counted = data.segmentation != 255
    factor = torch.tensor([0.5, 2, 3], dtype=torch.float64)[data.segmentation[counted]]
    torch.testing.assert_close(loss(ours, made, data), (factor * each[counted]).sum() / counted.sum())
    with pytest.raises(UserError, match="2 numbers for 3 classes"):
        task(class_weights=[1, 2])


def test_the_loss_without_any_labelled_pixel_is_0_with_a_gradient() -> None:
    made, ours = model(), task()
    value = loss(ours, made, batch(void=(0, 1, 2, 3)))
    value.backward()
    assert float(value) == 0
    assert all(p.grad is not None and bool((p.grad == 0).all()) for p in ours.parameters())


@pytest.mark.parametrize("names", ["classes", "texts"])
def test_it_learns_eight_pictures(names: str) -> None:
    made, ours = model().float(), task(names=names, up=2, channels=8).float()
    ours.prepare(made, TOKENIZER, Data())
    pixels = torch.full((8, 3, 16, 16), 128, dtype=torch.uint8)
    classes = torch.full((8, 16, 16), 2)
    for row in range(8):
        top, left = 2 * (row % 4), 3 * (row // 4)
        classes[row, top : top + 8, left : left + 8] = row % 2
        pixels[row, row % 2, top : top + 8, left : left + 8] = 255
    index = torch.arange(8)
    data = Batch(id=index, sample=index, seed=index, image=Image(pixels=pixels), segmentation=classes)
    parameters = [*ours.parameters(), *made.vision.parameters(), *made.text.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    first = last = float(loss(ours, made, data))
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(ours, made, data)
        value.backward()
        optimizer.step()
        last = float(value)
    assert last < first / 3
    made.eval(), ours.eval()
    ours.update(made, data, compute_features(made, data, ours.uses))
    figures = ours.compute(made)
    assert figures["miou"] is not None
    assert figures["miou"] > 75
    assert figures.keys() >= {"miou_present", "pixel_accuracy", "iou_red_circle", "iou_two"}


def photo_batch(folder: Path, classes: np.ndarray, view: View) -> Batch:
    """One photo with a label map of its own size, seen through a view."""
    PIL.Image.fromarray(classes.astype(np.uint8)).save(folder / "labels.png")
    PIL.Image.new("RGB", classes.shape[::-1]).save(folder / "photo.png")
    table = bytes([0, 1, 2, *[255] * 253])
    sample = Sample(
        id=0, sample=0, image=folder / "photo.png", label_map=folder / "labels.png", label_classes=table, as_stored=True
    )
    zero = torch.zeros(1, dtype=torch.int64)
    return Batch(
        id=zero, sample=zero, seed=zero, image=Image(pixels=torch.zeros(1, 3, *view.size, dtype=torch.uint8)), raw=(sample,),
        frame=torch.tensor([view.frame]), segmentation=view.resample_classes(torch.from_numpy(classes))[None],
    )  # fmt: skip


VIEWS = {
    "squashed": View(left=0, top=0, width=12, height=48, size=(48, 48)),
    "mirrored": View(left=0, top=0, width=12, height=48, size=(96, 24), mirrored=True),
    "letterboxed": View(left=-18, top=0, width=48, height=48, size=(96, 96)),
}


@pytest.mark.parametrize("name", list(VIEWS))
def test_figures_are_those_at_the_photos_size_whatever_the_view(tmp_path: Path, name: str) -> None:
    """A photo of 1 : 4: logits that say what the view shows are all right at the photo's pixels, and one wrong pixel counts."""
    view, classes = VIEWS[name], np.random.default_rng(0).integers(0, 3, (48, 12))
    data, ours = photo_batch(tmp_path, classes, view), task(weight=0.0, results_folder=tmp_path / "results")
    ours.prepare(model(), TOKENIZER, Data())
    shown = F.one_hot(data.segmentation.clamp(max=2), 3).permute(0, 3, 1, 2).double()
    ours.logits = lambda model, image, tokens=None: shown  # type: ignore[method-assign]
    made = model()
    ours.update(made, data, compute_features(made, data, ()))
    assert ours.compute(made)["pixel_accuracy"] == 100
    assert ours.compute(made)["miou"] == 100
    written = np.asarray(PIL.Image.open(tmp_path / "results/photo.png"))
    assert written.tolist() == np.array([7, 11, 200])[classes].tolist()
    classes[0, 0] = (classes[0, 0] + 1) % 3
    changed = photo_batch(tmp_path, classes, view)
    ours.reset()
    ours.update(made, changed, compute_features(made, changed, ()))
    figures = ours.compute(made)
    assert figures["pixel_accuracy"] == pytest.approx(100 * (1 - 1 / classes.size))
    value = torch.from_numpy(np.asarray(PIL.Image.open(tmp_path / "results/photo.png")).astype(np.int64))
    written_class = (value[..., None] == torch.tensor(Data.segment_ids)).int().argmax(-1)
    scored = mean_iou(
        confusion_matrix(torch.from_numpy(classes), written_class, 3)
    )  # of the file for a benchmark's server
    assert {name: figures[name] for name in scored} == pytest.approx(scored)
    (example,) = ours.figures()["label_maps"]["examples"]
    assert example["predicted"].shape == (48, 12)


def test_classes_of_the_data_in_another_order_are_the_same_classes() -> None:
    made, ours, other = model().eval(), task().eval(), task().eval()
    other.load_state_dict(ours.state_dict())
    order = (2, 0, 1)
    renamed = Data(segment_names=tuple(NAMES[i] for i in order), segment_ids=(5, 6, 8))
    data = batch()
    place = torch.tensor([*(order.index(i) for i in range(3)), *[255] * 253])
    moved = dataclasses.replace(data, segmentation=place[data.segmentation])
    ours.prepare(made, TOKENIZER, Data())
    other.prepare(made, TOKENIZER, renamed)
    torch.testing.assert_close(loss(other, made, moved), loss(ours, made, data))
    for each, images in ((ours, data), (other, moved)):
        each.update(made, images, compute_features(made, images, each.uses))
    assert ours.compute(made) == other.compute(made)
    with pytest.raises(UserError, match="must be the same classes"):
        ours.prepare(made, TOKENIZER, Data(segment_names=("cat", *NAMES[1:])))


def test_texts_name_classes_that_training_never_saw() -> None:
    made, ours, data = model().eval(), task(names="texts").eval(), batch()
    ours.prepare(made, TOKENIZER, Data())
    asked = Data(segment_names=("green circle", "red circle"), segment_ids=(1, 2))
    ours.prepare(made, TOKENIZER, asked)
    logits = ours.logits(made, data.image)
    ours.prepare(made, TOKENIZER, Data())
    torch.testing.assert_close(ours.logits(made, data.image)[:, 0], logits[:, 1])
    prompts = made.embed_text(made.encode_text(TOKENIZER(["a red circle", "the red circle"])))
    name = F.normalize(ours.segmenter.text(F.normalize(prompts.mean(0), dim=0)), dim=0)
    pixels = F.normalize(ours.segmenter.pixels(made.encode_image(data.image)), dim=1)
    torch.testing.assert_close(logits[:, 1], torch.einsum("bdhw,d->bhw", pixels, name) * ours.segmenter.log_scale.exp())


def test_windows_of_the_towers_size_over_a_larger_image() -> None:
    made, ours = model().eval(), task(window=16, stride=8, weight=0.0).eval()
    ours.prepare(made, TOKENIZER, Data())
    image = Image(pixels=torch.randint(0, 256, (1, 3, 16, 24), dtype=torch.uint8))
    assert ours.uses == ()
    parts = [ours.segmenter(made.encode_image(Image(pixels=image.pixels[..., x : x + 16]))) for x in (0, 8)]
    left, right = (F.interpolate(part, (16, 16), mode="bilinear") for part in parts)
    found = ours.logits(made, image)
    torch.testing.assert_close(found[..., :8], left[..., :8])
    torch.testing.assert_close(found[..., 8:16], (left[..., 8:] + right[..., :8]) / 2)
    torch.testing.assert_close(found[..., 16:], right[..., 8:])


@pytest.mark.parametrize("window", [None, 8])
def test_logits_of_an_image_and_of_its_mirror_image_are_averaged(window: int | None) -> None:
    made, image = model().eval(), batch().image
    plain, ours = task(window=window).eval(), task(window=window, flip=True).eval()
    mirrored = Image(pixels=image.pixels.flip(-1))
    expected = (plain.logits(made, image) + plain.logits(made, mirrored).flip(-1)) / 2
    found = ours.logits(made, image, None if window else made.encode_image(image))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.logits(made, mirrored), expected.flip(-1))
    assert not torch.allclose(found, plain.logits(made, image))
    padded = Image(pixels=image.pixels, size=torch.full((4, 2), 12))
    with pytest.raises(UserError, match=r"tasks\.segmentation\.flip=true mirrors images without padding"):
        ours.logits(made, padded)


def test_zero_shot_segments_by_a_native_vit_without_learning() -> None:
    made = model(ClipVit(image_size=16, patch_size=8, width=16, layers=2, heads=2)).eval()
    ours = task(head="zero_shot", weight=0.0)
    assert not list(ours.parameters())
    data = batch()
    ours.prepare(made, TOKENIZER, Data())
    ours.update(made, data, compute_features(made, data, ours.uses))
    assert ours.compute(made)["miou"] is not None
    with pytest.raises(UserError, match="learns nothing"):
        task(head="zero_shot")
    with pytest.raises(UserError, match="SmallCnn"):
        ours.prepare(model(), TOKENIZER, Data())


def test_shares_of_the_classes_of_each_image() -> None:
    made, ours, data = model().eval(), task(weight=0.0).eval(), batch()
    ours.prepare(made, TOKENIZER, Data())
    records = ours.predict(made, data)
    best = F.interpolate(ours.logits(made, data.image), (16, 16), mode="bilinear").argmax(1)
    for row, record in enumerate(records):
        shares = dict(record["classes"])
        assert sum(shares.values()) == pytest.approx(1)
        assert shares == {
            NAMES[i]: pytest.approx(float((best[row] == i).double().mean())) for i in best[row].unique().tolist()
        }


def test_a_raster_is_needed() -> None:
    states = torch.zeros(1, 3, 16).double()
    with pytest.raises(UserError, match="no raster"):
        task().segmenter(Tokens(states=states, pooled=states[:, 0]))


def _gradients(rank: int, world: int, names: str) -> dict[str, Any]:
    """Of the loss on all four images, of which the last process has the one without a labelled pixel; and the figures."""
    made, ours = model().eval(), task(names=names)
    ours.prepare(made, TOKENIZER, Data())
    for module in (made, ours):
        module.eval()
    data = batch() if world == 1 else batch((slice(0, 3), slice(3, 4))[rank])
    both = torch.nn.ModuleDict({"model": made, "head": ours})

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = both

        def forward(self) -> torch.Tensor:
            return loss(ours, made, data)

    step: torch.nn.Module = Step()
    if world > 1:
        step = DistributedDataParallel(step, find_unused_parameters=True)
    value = step()
    value.backward()
    ours.reset()
    with torch.no_grad():
        ours.update(made, data, compute_features(made, data, ours.uses))
    figures = ours.compute(made)
    gradients = {name: p.grad for name, p in both.named_parameters() if p.grad is not None and name.startswith("head")}
    return {"loss": value.detach(), "figures": figures, "gradients": gradients}


@pytest.mark.parametrize("names", ["classes", "texts"])
def test_two_processes_equal_one(tmp_path: Path, names: str) -> None:
    one = _gradients(0, 1, names)
    for result in run_processes(2, _gradients, tmp_path, names):
        torch.testing.assert_close(result["loss"], one["loss"], rtol=1e-10, atol=1e-10)
        assert result["figures"] == one["figures"]
        assert result["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            torch.testing.assert_close(result["gradients"][name], gradient, rtol=1e-10, atol=1e-10)
