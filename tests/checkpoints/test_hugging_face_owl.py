"""OWL-ViT and OWLv2 folders give transformers' boxes, scores and embeddings at any size, are written back bit-equal, and train."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from torch import Tensor, nn

import vlp
from tests.checkpoints.fixtures import arrays, opened
from tests.checkpoints.test_hugging_face import equal_files
from vlp.build import ALLOWED_IN_FILES, build
from vlp.checkpoints import hugging_face_owl, load
from vlp.checkpoints.convert import convert
from vlp.checkpoints.keys import load_strictly
from vlp.models.dense.boxes import owl_bias
from vlp.models.dense.detection_loss import Targets, detection_loss
from vlp.models.dense.detector import Detector, Proposals
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Text
from vlp.system.errors import UserError

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
CLASSES: dict[str, tuple[Any, Any]] = {
    "owlvit": (transformers.OwlViTConfig, transformers.OwlViTForObjectDetection),
    "owlv2": (transformers.Owlv2Config, transformers.Owlv2ForObjectDetection),
}
VISION = {"hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 40,
          "patch_size": 8, "layer_norm_eps": 1e-4}  # fmt: skip
TEXT = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 60,
        "max_position_embeddings": 9, "bos_token_id": 58, "eos_token_id": 59, "hidden_act": "gelu"}  # fmt: skip
kinds = pytest.mark.parametrize("kind", CLASSES)


def written(folder: Path, kind: str, seed: int = 0, **vision: Any) -> Any:
    torch.manual_seed(seed)
    config, model = CLASSES[kind]
    built = model(config(vision_config=VISION | vision, text_config=TEXT, projection_dim=24)).eval()
    for parameter in built.parameters():  # what starts at zero would hide a wrong bias
        parameter.data += 0.1 * torch.randn_like(parameter)
    built.save_pretrained(folder)
    return built


def queries(count: int = 3) -> Text:
    """Texts that end in the highest id, padded with 0."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 58, (count, 9), generator=generator)
    mask = torch.arange(9) < 4 + torch.arange(count)[:, None]
    ids[torch.arange(count), mask.sum(1) - 1] = 59
    return Text(ids=ids * mask, mask=mask)


def read_detector(folder: Path) -> tuple[VisionLanguageModel, Detector]:
    checkpoint = load.read(folder, {})
    tasks = nn.ModuleDict(build(checkpoint.config["objectives"], allow=ALLOWED_IN_FILES))
    load_strictly(tasks, checkpoint.heads)
    return load.build_model(checkpoint), tasks["detection"].eval().detector  # type: ignore[return-value]


def propose(model: VisionLanguageModel, detector: Detector, pixels: Tensor, texts: Text) -> tuple[Proposals, Tensor]:
    embed = model.embed_text(model.encode_text(texts))
    with warnings.catch_warnings():  # other sizes are meant
        warnings.simplefilter("ignore")
        return detector(model.encode_image(Image(pixels=pixels)), embed), embed


@kinds
@pytest.mark.parametrize("shape", [(40, 40), (64, 64), (24, 48), (50, 33)])
@torch.no_grad()
def test_equal_to_transformers_in_double_precision(tmp_path: Path, kind: str, shape: tuple[int, int]) -> None:
    reference = written(tmp_path, kind).double()
    model, detector = read_detector(tmp_path)
    pixels, texts = torch.randn(2, 3, *shape, dtype=torch.float64), queries()
    expected = reference(
        input_ids=texts.ids.repeat(2, 1), attention_mask=texts.mask.repeat(2, 1), pixel_values=pixels,
        interpolate_pos_encoding=shape != (40, 40),
    )  # fmt: skip
    found, embed = propose(model.double(), detector.double(), pixels, texts)
    torch.testing.assert_close(found.logits, expected.logits.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(embed, expected.text_embeds[0].to(embed), atol=1e-6, rtol=0)
    places, grid = detector.places(model.encode_image(Image(pixels=pixels)))
    assert grid == (shape[0] // 8, shape[1] // 8)
    # transformers computes the bias in float32 whatever the model's type is, and it has 1e-4 beside 1
    bias = reference.compute_box_bias(*grid)
    torch.testing.assert_close((detector.boxes.mlp(places) + bias).sigmoid(), expected.pred_boxes, atol=1e-7, rtol=0)
    torch.testing.assert_close(owl_bias(grid, bias), bias, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.boxes, expected.pred_boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(places.unflatten(1, grid), expected.image_embeds, atol=1e-7, rtol=0)
    torch.testing.assert_close(detector.scores.embed(places), expected.class_embeds, atol=1e-7, rtol=0)
    assert (found.objectness is not None) == (kind == "owlv2")
    if found.objectness is not None:
        torch.testing.assert_close(found.objectness, expected.objectness_logits, atol=1e-7, rtol=0)


@kinds
@pytest.mark.parametrize("size", ["", "_96"])
@torch.no_grad()
def test_reference_numbers(kind: str, size: str) -> None:
    """Of weights so large that logits reach 158, so transformers' own rounding, float32 against float64, is 7e-5 in logits and 4e-5
    in boxes."""
    folder = REFERENCE / kind
    if not folder.is_dir():
        pytest.skip("needs the reference numbers beside the checkout")
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / f"outputs{size}.npz")
    model, detector = read_detector(folder)
    pixels = inputs[f"pixels{size}"]
    texts = Text(ids=inputs["ids"], mask=inputs["mask"].bool())
    embed = model.embed_text(model.encode_text(texts)).unflatten(0, (2, 3))[: len(pixels)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = model.encode_image(Image(pixels=pixels))
    found, (places, grid) = detector(tokens, embed), detector.places(tokens)
    torch.testing.assert_close(
        found.logits, expected["logits"], atol=1e-5 * float(expected["logits"].abs().max()), rtol=0
    )
    torch.testing.assert_close(found.boxes, expected["boxes_cxcywh"], atol=6e-5, rtol=0)
    if not size:
        torch.testing.assert_close(embed, expected["text_embeds"], atol=1e-5, rtol=0)
        torch.testing.assert_close(places.unflatten(1, grid), expected["image_embeds"], atol=1e-5, rtol=0)
        torch.testing.assert_close(detector.scores.embed(places), expected["class_embeds"], atol=1e-5, rtol=0)
    if "objectness" in expected and found.objectness is not None:
        most = float(expected["objectness"].abs().max())
        torch.testing.assert_close(found.objectness, expected["objectness"], atol=1e-5 * max(1.0, most), rtol=0)


@kinds
@torch.no_grad()
def test_there_and_back(tmp_path: Path, kind: str) -> None:
    reference = written(tmp_path / "hf", kind)
    convert(tmp_path / "hf", tmp_path / "ours.ckpt", "vlp")
    convert(tmp_path / "ours.ckpt", tmp_path / "back", "hugging_face")
    equal_files(tmp_path / "hf" / "model.safetensors", tmp_path / "back" / "model.safetensors")
    again = CLASSES[kind][1].from_pretrained(tmp_path / "back").eval()
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in reference.state_dict().items())
    texts, pixels = queries(), torch.randn(1, 3, 40, 40)
    given = {"input_ids": texts.ids, "attention_mask": texts.mask, "pixel_values": pixels}
    assert torch.equal(again(**given).logits, reference(**given).logits)
    assert torch.equal(again(**given).pred_boxes, reference(**given).pred_boxes)


def test_what_transformers_could_not_run_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "hf", "owlv2")
    checkpoint = load.read(tmp_path / "hf", {})
    for path, value, named in (
        (("model", "vision", "norm_states"), False, r"model\.vision\.norm_states=False"),
        (("objectives", "detection", "head", "layers"), 2, r"tasks\.detection\.head\.layers=2"),
        (("objectives", "detection", "head", "place_levels"), ["blocks.0"], r"head\.place_levels=\['blocks\.0'\]"),
        (("model", "text", "pool"), "first", r"model\.text\.pool=first"),
    ):
        changed = copy.deepcopy(checkpoint)
        node = changed.config
        for name in path[:-1]:
            node = node[name]
        node[path[-1]] = value
        with pytest.raises(UserError, match=named):
            hugging_face_owl.write(changed.config, changed.state, changed.heads, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    file = tmp_path / "hf" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["Owlv2Model"]}))
    with pytest.raises(UserError, match="holds a Owlv2Model; of owlv2 vlp reads Owlv2ForObjectDetection"):
        load.read(tmp_path / "hf", {})


def squares() -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Eight images of one coloured square each; its box and which of three queries it is."""
    generator = np.random.default_rng(0)
    pixels, boxes, positive = torch.full((8, 3, 40, 40), 128, dtype=torch.uint8), [], []
    for image in range(8):
        left, top = (int(generator.integers(2, 22)) for _ in range(2))
        pixels[image, :, top : top + 16, left : left + 16] = 20
        pixels[image, image % 3, top : top + 16, left : left + 16] = 230
        boxes.append(torch.tensor([[left, top, left + 16, top + 16]]) / 40)
        positive.append(torch.arange(3)[None] == image % 3)
    return pixels, boxes, positive


@kinds
def test_the_loss_falls_and_what_was_trained_is_written_back(tmp_path: Path, kind: str) -> None:
    written(tmp_path / "hf", kind, hidden_size=32, num_attention_heads=2, layer_norm_eps=1e-5)
    model, detector = read_detector(tmp_path / "hf")
    pixels, boxes, positive = squares()
    targets = Targets(boxes=boxes, positive=positive, crowds=[torch.zeros(0, 4)] * 8)
    weights = {"class": 2.0, "l1": 5.0, "giou": 2.0, "objectness": 1.0}
    parameters = [*model.train().parameters(), *detector.train().parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    losses = []
    for _ in range(40):
        loss, _ = detection_loss(propose(model, detector, pixels, queries())[0], targets, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2, losses
    unused = ("projection.image", "projection.logit_scale")  # CLIP's own, of which detection makes no use
    missing = [name for name, value in model.named_parameters() if value.grad is None and not name.startswith(unused)]
    assert missing == []
    assert all(parameter.grad is not None for parameter in detector.parameters())

    checkpoint = load.read(tmp_path / "hf", {})
    checkpoint.state = model.state_dict()
    checkpoint.heads = {f"detection.detector.{key}": value for key, value in detector.state_dict().items()}
    load.save(checkpoint, tmp_path / "trained.ckpt")
    convert(tmp_path / "trained.ckpt", tmp_path / "back", "hugging_face")
    again = CLASSES[kind][1].from_pretrained(tmp_path / "back").eval()
    texts = queries()
    with torch.no_grad():
        given = (pixels[:1] / 255 - model.vision.normalize.mean) / model.vision.normalize.std
        expected = again(input_ids=texts.ids, attention_mask=texts.mask, pixel_values=given)
        found, _ = propose(model.eval(), detector.eval(), pixels[:1], texts)
    torch.testing.assert_close(found.boxes, expected.pred_boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_pictures_of_owlvit_as_transformers_does_it(tmp_path: Path) -> None:
    reference = written(tmp_path, "owlvit")
    processor = transformers.OwlViTImageProcessorPil(size={"height": 40, "width": 40}, do_center_crop=False)
    processor.save_pretrained(tmp_path)
    picture = PIL.Image.effect_noise((70, 50), 60).convert("RGB")
    pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
    expected = reference.owlvit.get_image_features(pixel_values=pixels).pooler_output
    ours = vlp.load(tmp_path).embed_images([picture])
    torch.testing.assert_close(ours, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_things_of_an_oblong_picture_lie_where_transformers_finds_them(tmp_path: Path) -> None:
    config, model = CLASSES["owlvit"]
    torch.manual_seed(0)
    words = TEXT | {"vocab_size": 49408, "max_position_embeddings": 16, "bos_token_id": 49406, "eos_token_id": 49407}
    reference = model(config(vision_config=VISION, text_config=words, projection_dim=24)).eval()
    reference.save_pretrained(tmp_path)
    processor = transformers.OwlViTImageProcessorPil(size={"height": 40, "width": 40}, do_center_crop=False)
    processor.save_pretrained(tmp_path)
    picture = PIL.Image.effect_noise((160, 40), 60).convert("RGB")
    predictor = vlp.load(tmp_path)
    found = predictor.detect([picture], ["cat", "blue car"], threshold=0.0)[0]
    text = predictor.require_tokenizer()(["a photo of a cat", "a photo of a blue car"])
    pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
    output = reference(input_ids=text.ids, attention_mask=text.mask.long(), pixel_values=pixels)
    sizes = torch.tensor([[40, 160]])
    expected = processor.post_process_object_detection(output, threshold=-1.0, target_sizes=sizes)[0]
    for label, score, box in zip(expected["labels"], expected["scores"], expected["boxes"], strict=True):
        name = ["cat", "blue car"][int(label)]
        near = min(
            float((torch.tensor(thing["box"]) - box).abs().max()) + abs(thing["score"] - float(score))
            for thing in found
            if thing["label"] == name
        )
        assert near < 0.05


def test_a_larger_image_size_is_that_of_transformers(tmp_path: Path) -> None:
    written(tmp_path, "owlvit")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        run_time = opened(tmp_path).vision(Image(pixels=pixels)).states
        loaded = opened(tmp_path, image_size=64).vision(Image(pixels=pixels)).states
    torch.testing.assert_close(run_time, loaded, atol=1e-5, rtol=0)
