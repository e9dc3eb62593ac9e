from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from tests.checkpoints.fixtures import arrays, check_norms, clip_loss, gradients_of, opened, outputs, text
from vlp.checkpoints import clip, tensor_files
from vlp.checkpoints.convert import convert
from vlp.checkpoints.keys import to_theirs
from vlp.models.text.clip_text import ClipText
from vlp.models.vision.clip_resnet import ClipResNet
from vlp.models.vision.clip_vit import ClipVit
from vlp.structures import Image


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit/checkpoint.pt", "vit/outputs.npz"),
        ("rn/checkpoint.pt", "rn/outputs.npz"),
        ("vit/checkpoint_torchscript.pt", "vit/outputs_torchscript.npz"),
    ],
)
@torch.no_grad()
def test_features_and_logits_of_the_original(shared: Path, name: str, expected: str) -> None:
    folder = shared / "reference" / "openai_clip"
    model, inputs = opened(folder / name), arrays((folder / name).parent / "inputs.npz")
    ours, theirs = outputs(model, inputs["image"], text(inputs["text"])), arrays(folder / expected)
    torch.testing.assert_close(ours["image"], theirs["image_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["text"], theirs["text_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["logits"], theirs["logits_per_image"], atol=2e-5, rtol=0)
    if "text_tokens_ln_final" in theirs:
        states = model.encode_text(text(inputs["text"])).states
        torch.testing.assert_close(states, theirs["text_tokens_ln_final"], atol=1e-5, rtol=0)
        raster = model.encode_image(Image(pixels=inputs["image"])).states
        tokens = theirs["visual_layer4"].flatten(2).mT if "visual_layer4" in theirs else theirs["visual_tokens"]
        torch.testing.assert_close(raster, tokens, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vit", "rn"])
def test_gradients_of_the_original(shared: Path, name: str) -> None:
    folder = shared / "reference" / "openai_clip" / name
    model = opened(folder / "checkpoint.pt")
    inputs, expected = arrays(folder / "inputs.npz"), arrays(folder / "grads.npz")
    loss = clip_loss(model, inputs["image"], text(inputs["text"][:3]))
    loss.backward()
    torch.testing.assert_close(loss, expected.pop("loss"), atol=1e-5, rtol=0)
    ours = gradients_of(model)
    gradients = to_theirs(ours, [row for row in clip.key_table(ours) if row.ours])
    check_norms(gradients, folder / "grad_norms.json")
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vit", "rn"])
def test_there_and_back_is_bit_equal(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "reference" / "openai_clip" / name / "checkpoint.pt"
    convert(source, tmp_path / "ours.ckpt", "vlp")
    convert(tmp_path / "ours.ckpt", tmp_path / "back.pt", "openai")
    original, back = tensor_files.read(source), tensor_files.read(tmp_path / "back.pt")
    assert original.keys() == back.keys()
    assert [k for k in original if original[k].dtype != back[k].dtype or not torch.equal(original[k], back[k])] == []


def test_an_archive_is_read_without_running_it(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = shared / "reference" / "openai_clip" / "vit" / "checkpoint_torchscript.pt"
    with warnings.catch_warnings(action="ignore"):  # deprecated
        expected = torch.jit.load(archive, map_location="cpu").state_dict()
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("the archive's code was compiled"))
    ours = tensor_files.read(archive)
    assert [key for key in expected if not torch.equal(ours[key], expected[key])] == []


SIZES = [
    {
        "embed": 24,
        "size": 48,
        "vision": {"patch_size": 8, "width": 128, "layers": 3},
        "text": {"context_length": 11, "width": 64, "layers": 1},
    },
    {
        "embed": 40,
        "size": 96,
        "vision": {"layers": [2, 1, 3, 1], "stem_width": 16},
        "text": {"context_length": 33, "width": 192, "layers": 2},
    },
]


@pytest.mark.parametrize("sizes", SIZES, ids=["vit", "resnet"])
@pytest.mark.parametrize("half", [False, True])
def test_other_sizes_are_read_from_the_shapes(tmp_path: Path, sizes: dict, half: bool) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision, tower = sizes["vision"], sizes["text"]
    reference = open_clip.model.CLIP(
        embed_dim=sizes["embed"],
        quick_gelu=True,
        vision_cfg={"image_size": sizes["size"]} | {{"stem_width": "width"}.get(k, k): v for k, v in vision.items()},
        text_cfg={"vocab_size": 70, "heads": tower["width"] // 64} | tower,
    ).eval()
    for key, value in reference.named_parameters():
        if key.endswith("bn3.weight"):
            torch.nn.init.uniform_(value)
    if half:
        open_clip.model.convert_weights_to_fp16(reference)
    torch.save(reference.state_dict(), tmp_path / "weights.pt")
    reference.float()
    model = opened(tmp_path / "weights.pt")
    assert isinstance(model.vision, ClipResNet if "stem_width" in vision else ClipVit)
    assert isinstance(model.text, ClipText)
    assert (model.vision.image_size, model.text.context_length) == (sizes["size"], tower["context_length"])
    pixels, ids = torch.randn(2, 3, sizes["size"], sizes["size"]), torch.randint(1, 70, (2, tower["context_length"]))
    with torch.no_grad():
        ours = outputs(model, pixels, text(ids))
        torch.testing.assert_close(ours["image"], reference.encode_image(pixels), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours["text"], reference.encode_text(ids), atol=1e-5, rtol=1e-5)
    convert(tmp_path / "weights.pt", tmp_path / "back.pt", "openai")
    original, back = tensor_files.read(tmp_path / "weights.pt"), tensor_files.read(tmp_path / "back.pt")
    assert original.keys() == back.keys()
    assert [k for k in original if original[k].dtype != back[k].dtype or not torch.equal(original[k], back[k])] == []


def test_heads_come_from_an_argument_or_a_json_beside(shared: Path, tmp_path: Path) -> None:
    folder = shared / "reference" / "openai_clip" / "vit"
    told = opened(folder / "checkpoint.pt", vision_heads=4, text_heads=8)
    assert (told.vision.blocks[0].attention.heads, told.text.blocks[0].attention.heads) == (4, 8)
    torch.save(tensor_files.read(folder / "checkpoint.pt"), tmp_path / "a.pt")
    (tmp_path / "config.json").write_text('{"vision_heads": 8, "transformer_heads": 4}')
    read = opened(tmp_path / "a.pt")
    assert (read.vision.blocks[0].attention.heads, read.text.blocks[0].attention.heads) == (8, 4)
