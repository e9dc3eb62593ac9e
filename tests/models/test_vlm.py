"""Each family in conf/model builds, by YAML alone, with OpenAI's number of parameters where it has one."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import torch
import transformers
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from vlp.build import build
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Text

CONF = Path(__file__).resolve().parents[2] / "conf"
OPENAI = {  # millions of parameters of the released models
    "clip_rn50": 102.0, "clip_rn101": 119.7, "clip_rn50x4": 178.3, "clip_rn50x16": 291.0, "clip_rn50x64": 623.3,
    "clip_vit_b32": 151.3, "clip_vit_b16": 149.6, "clip_vit_l14": 427.6, "clip_vit_l14_336": 427.9,
}  # fmt: skip


def model(*overrides: str, size: int = 49408, device: str = "meta") -> VisionLanguageModel:
    GlobalHydra.instance().clear()  # another test of this process may have composed
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        tokenizer = [f"+tokenizer.size={size}", "+tokenizer.context_length=77"]
        config = hydra.compose(overrides=[*(f"+{o}" if o.startswith("model=") else o for o in overrides), *tokenizer])
    with torch.device(device):
        return build(OmegaConf.to_container(config.model, resolve=True))


FAMILIES = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    family = model(f"model={name}")
    if name in OPENAI:
        assert sum(p.numel() for p in family.parameters()) / 1e6 == pytest.approx(OPENAI[name], abs=0.06)


def test_siglip_has_the_parameters_of_transformers() -> None:
    with torch.device("meta"):
        reference = transformers.SiglipModel(transformers.SiglipConfig())
    own = model("model=siglip_b16", size=32000)
    positions = (77 - 64) * 768  # of the tokenizer chosen here
    assert sum(p.numel() for p in own.parameters()) - positions == sum(p.numel() for p in reference.parameters())


@pytest.mark.parametrize(
    "overrides",
    [
        ("model/vision=timm", "model.vision.name=resnet18"),
        ("model/vision=torchvision", "model.vision.name=resnet18"),
        ("model/vision=clip_rn50", "model/projection=linear_text"),
        ("model/text=bert",),
        ("model/projection=shared",),
        ("model/vision=torchvision", "model/text=clip_text_512", "model/projection=siglip"),
    ],
)
def test_one_word_swaps_a_part(overrides: tuple[str, ...]) -> None:
    swapped = model("model=clip_vit_b32", *overrides)
    pooled = [torch.zeros(2, tower.width, device="meta") for tower in (swapped.vision, swapped.text)]
    assert swapped.projection.project_image(pooled[0]).shape == swapped.projection.project_text(pooled[1]).shape


def test_the_default_model_embeds_to_unit_length() -> None:
    tiny = model("model=clip_tiny", size=300, device="cpu").eval()
    size = tiny.vision.image_size
    image = tiny.embed_image(tiny.encode_image(Image(pixels=torch.zeros(2, 3, size, size, dtype=torch.uint8))))
    ids = torch.tensor([[1, 5, 299]])
    text = tiny.embed_text(tiny.encode_text(Text(ids=ids, mask=ids > 0)))
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(2))
    assert tiny.similarity(image, text).shape == (2, 1)
    assert tiny.similarity(image, text).abs().max() <= 1 / 0.07 + 1e-4


def test_a_part_that_is_lacking_is_named() -> None:
    with pytest.raises(ValueError, match="this model has no text: choose one with model/text="):
        VisionLanguageModel().encode_text(Text(ids=torch.ones(1, 2).long(), mask=torch.ones(1, 2).bool()))
