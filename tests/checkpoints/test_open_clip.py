from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.fixtures import arrays, check_norms, clip_loss, gradients_of, opened, outputs, text
from vlp.checkpoints import open_clip
from vlp.checkpoints.keys import to_theirs


@pytest.mark.parametrize("name", ["vit_gelu", "vit_gelu/epoch_1.pt", "vit_quickgelu", "siglip_like"])
@torch.no_grad()
def test_features_and_logits_of_the_original(shared: Path, name: str) -> None:
    path = shared / "reference" / "open_clip" / name
    folder = path if path.is_dir() else path.parent
    model, inputs, expected = opened(path), arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    ours = outputs(model, inputs["image"], text(inputs["text"]))
    torch.testing.assert_close(ours["image"], expected["image_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["text"], expected["text_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["logits"], expected["logits_per_image"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["vit_gelu", "vit_quickgelu"])
def test_gradients_of_the_original(shared: Path, name: str) -> None:
    folder = shared / "reference" / "open_clip" / name
    model, inputs = opened(folder), arrays(folder / "inputs.npz")
    loss = clip_loss(model, inputs["image"], text(inputs["text"]))
    loss.backward()
    expected = json.loads((folder / "train_loss_and_grad_norms.json").read_text())
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    flat = [row for row in open_clip.key_table({}) if row.theirs != "text_projection.weight"]
    check_norms(to_theirs(gradients_of(model), flat), folder / "train_loss_and_grad_norms.json")


def test_siglip_gradients_of_the_original(shared: Path) -> None:
    folder = shared / "reference" / "open_clip" / "siglip_like"
    model, inputs = opened(folder), arrays(folder / "inputs.npz")
    logits = outputs(model, inputs["image"], text(inputs["text"]))["logits"]
    sign = 2 * torch.eye(len(logits)) - 1
    loss = -torch.nn.functional.logsigmoid(sign * logits).sum() / len(logits)
    loss.backward()
    expected = json.loads((folder / "train_loss_and_grad_norms.json").read_text())
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    rows = [
        row for row in open_clip.key_table({"text.token_embedding.weight": 0}) if row.theirs != "text.text_projection"
    ]
    check_norms(to_theirs(gradients_of(model), rows), folder / "train_loss_and_grad_norms.json")


VISION = {"image_size": 48, "patch_size": 12, "width": 40, "layers": 3, "head_width": 10}
TEXT = {"context_length": 13, "vocab_size": 90, "width": 48, "heads": 3, "layers": 1}
CONFIGS = {
    "ratio": {"embed_dim": 20, "vision_cfg": VISION | {"mlp_ratio": 2.5}, "text_cfg": TEXT | {"mlp_ratio": 3.0}},
    "resnet": {"embed_dim": 20, "quick_gelu": True, "text_cfg": TEXT,
               "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 2], "width": 12, "head_width": 32}},
    "average": {"embed_dim": 20, "vision_cfg": VISION | {"pool_type": "avg"},
                "text_cfg": TEXT | {"pool_type": "first"}},
    "uneven": {"embed_dim": 20, "vision_cfg": VISION | {"image_size": 51}, "text_cfg": TEXT},
    "eos": {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 7}},
    "siglip": {"embed_dim": 48, "init_logit_bias": -10, "custom_text": True,
               "vision_cfg": VISION | {"norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}},
               "text_cfg": TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_type": "none",
                                   "norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}}},
}  # fmt: skip


def written(folder: Path, config: dict) -> torch.nn.Module:
    library = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    options = {key: value for key, value in config.items() if key != "custom_text"}
    kind = library.model.CustomTextCLIP if config.get("custom_text") else library.model.CLIP
    model = kind(**options).eval()
    for key, value in model.named_parameters():
        if key.endswith("bn3.weight"):
            torch.nn.init.uniform_(value)
    told = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return model


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_other_sizes_and_options(tmp_path: Path, name: str) -> None:
    reference = written(tmp_path, CONFIGS[name])
    model = opened(tmp_path)
    size = CONFIGS[name]["vision_cfg"]["image_size"]
    pixels, ids = torch.randn(2, 3, size, size), torch.randint(1, 90, (2, 13))
    ids[:, 5] = 7
    ours = outputs(model, pixels, text(ids))
    torch.testing.assert_close(ours["image"], reference.encode_image(pixels), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours["text"], reference.encode_text(ids), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours["logits"], reference.get_logits(pixels, ids)[0], atol=2e-5, rtol=1e-5)
    assert model.vision.normalize.mean.flatten().tolist() == [0.5] * 3


@torch.no_grad()
def test_another_image_size_resizes_the_positions_as_open_clip_does(tmp_path: Path) -> None:
    reference = written(tmp_path, CONFIGS["ratio"])
    library = pytest.importorskip("open_clip")
    state = reference.state_dict()
    larger = CONFIGS["ratio"] | {"vision_cfg": CONFIGS["ratio"]["vision_cfg"] | {"image_size": 72}}
    resized = library.model.CLIP(**larger).eval()
    library.model.resize_pos_embed(state, resized)
    resized.load_state_dict(state)
    pixels, ids = torch.randn(2, 3, 72, 72), torch.randint(1, 90, (2, 13))
    ours = outputs(opened(tmp_path, image_size=72), pixels, text(ids))["image"]
    torch.testing.assert_close(ours, resized.encode_image(pixels), atol=1e-5, rtol=1e-5)


def test_a_training_file_without_its_config_is_gelu_unless_told(tmp_path: Path) -> None:
    config = {"embed_dim": 20, "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1},
              "text_cfg": {"context_length": 9, "vocab_size": 20, "width": 64, "heads": 1, "layers": 1}}  # fmt: skip
    reference = written(tmp_path, config)
    (tmp_path / "alone").mkdir()
    state = {f"module.{key}": value for key, value in reference.state_dict().items()}
    torch.save({"epoch": 1, "name": "x", "state_dict": state}, tmp_path / "alone" / "epoch_1.pt")
    pixels = torch.randn(2, 3, 16, 16)
    ids = torch.randint(1, 20, (2, 9))
    ours = outputs(opened(tmp_path / "alone" / "epoch_1.pt"), pixels, text(ids))["image"]
    told = outputs(opened(tmp_path / "alone" / "epoch_1.pt", activation="quick_gelu"), pixels, text(ids))["image"]
    torch.testing.assert_close(ours, reference.encode_image(pixels), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, told, atol=1e-4)


def test_a_part_that_vlp_does_not_build_is_named(tmp_path: Path) -> None:
    config = {"embed_dim": 20, "vision_cfg": VISION | {"ls_init_value": 0.1}, "text_cfg": TEXT | {"qk_norm": True}}
    written(tmp_path, config)
    with pytest.raises(ValueError, match=r"vision_cfg\.ls_init_value=0\.1, text_cfg\.qk_norm=True"):
        opened(tmp_path)
