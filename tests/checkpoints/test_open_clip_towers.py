"""open_clip's models of other towers (timm's, transformers', CoCa's, SigLIP's), built tiny and random by open_clip itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file

import vlp
from tests.checkpoints.fixtures import arrays, opened, outputs, text
from tests.tokenizers.test_hugging_face import byte_level
from vlp.models.generation import GenerationRules, beam_search, greedy_search
from vlp.structures import Image

library = pytest.importorskip("open_clip")

VISION = {"image_size": 48, "patch_size": 12, "width": 40, "layers": 2, "head_width": 10}
TEXT = {"context_length": 13, "vocab_size": 90, "width": 48, "heads": 3, "layers": 1}
SIGLIP_TEXT = TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6},
                      "act_kwargs": {"approximate": "tanh"}, "pad_id": 1}  # fmt: skip


def timm_vision(name: str, **options: Any) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_model_pretrained": False, "image_size": 224, **options}


def written(folder: Path, config: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {key: value for key, value in config.items() if key != "custom_text"}
    name = "CoCa" if "multimodal_cfg" in config else "CustomTextCLIP" if config.get("custom_text") else "CLIP"
    model = getattr(library, name)(**options).eval()
    for key, parameter in model.named_parameters():
        if key == "text_decoder.text_projection":  # which CoCa leaves as the memory was
            torch.nn.init.normal_(parameter, std=0.1)
        parameter.data += 0.02 * torch.randn_like(parameter)  # what it sets to zero would hide a wrong bias
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return model


def check(
    reference: Any, folder: Path, size: tuple[int, int], ids: torch.Tensor, mask: torch.Tensor | None = None
) -> Any:
    model, pixels = opened(folder), torch.randn(2, 3, *size)
    ours = outputs(model, pixels, text(ids, mask))
    image, words = reference.encode_image(pixels, normalize=False), reference.encode_text(ids, normalize=False)
    torch.testing.assert_close(ours["image"], image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours["text"], words, atol=1e-5, rtol=1e-5)
    norms = (torch.nn.functional.normalize(x, dim=-1) for x in (image, words))
    logits = reference.logit_scale.exp() * next(norms) @ next(norms).T
    logits = logits if reference.logit_bias is None else logits + reference.logit_bias
    torch.testing.assert_close(ours["logits"], logits, atol=1e-5, rtol=1e-5)
    return model


TIMM = {
    "linear": timm_vision("test_vit", image_size=160, timm_pool="avg", timm_proj="linear"),
    "linear_bias": timm_vision("test_vit2", image_size=160, timm_pool="", timm_proj="linear", timm_proj_bias=True),
    "mlp": timm_vision("test_convnext", image_size=64, timm_pool="avg", timm_proj="mlp"),
    "classifier": timm_vision("test_vit", image_size=160, timm_pool="token", timm_proj=None),
    "classifier_of_a_convnet": timm_vision("test_convnext2", image_size=96, timm_pool="avg", timm_proj=None),
    "none": timm_vision("test_resnet", image_size=64, timm_pool="avg", timm_proj="none"),
    "map": timm_vision("test_vit3", image_size=160, timm_pool="map", timm_proj=None),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("custom", [False, True])
@torch.no_grad()
def test_timm_image_towers(tmp_path: Path, name: str, custom: bool) -> None:
    width = timm.create_model(TIMM[name]["timm_model_name"], num_classes=0).num_features
    config = {
        "embed_dim": width if name == "none" else 20,
        "vision_cfg": TIMM[name],
        "text_cfg": TEXT,
        "custom_text": custom,
    }
    reference, size = written(tmp_path, config), TIMM[name]["image_size"]
    model = check(reference, tmp_path, (size, size), torch.randint(1, 90, (3, 13)))
    assert model.vision.normalize.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])


@torch.no_grad()
def test_siglip(tmp_path: Path) -> None:
    vision = timm_vision("vit_base_patch16_siglip_224", timm_pool="map", timm_proj="none")
    tiny = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32, "patch_size": 8}
    with pytest.MonkeyPatch.context() as patch:  # the only such networks of timm are large
        create = library.timm_model.timm.create_model
        patch.setattr(
            library.timm_model.timm, "create_model", lambda *names, **options: create(*names, **options | tiny)
        )
        config = {"embed_dim": 24, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision | {"image_size": 32},
                  "text_cfg": SIGLIP_TEXT}  # fmt: skip
        reference = written(tmp_path, config)
        ids = torch.randint(2, 90, (3, 13))
        ids[0, 4:] = 1
        model = check(reference, tmp_path, (32, 32), ids, ids != 1)
    assert float(model.projection.logit_bias) == pytest.approx(float(reference.logit_bias))


BERT = {"vocab_size": 90, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 40,
        "max_position_embeddings": 20}  # fmt: skip
MODELS: dict[str, Any] = {
    "bert": transformers.BertConfig(**BERT),
    "roberta": transformers.RobertaConfig(**BERT, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5),
    "xlm-roberta": transformers.XLMRobertaConfig(**BERT, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5),
    "mt5": transformers.MT5Config(vocab_size=90, d_model=32, d_kv=16, d_ff=40, num_layers=2, num_heads=2),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("pooler", "projection"), [("mean_pooler", "mlp"), ("cls_pooler", "linear"), ("cls_last_hidden_state_pooler", None)]
)
@torch.no_grad()
def test_transformers_text_towers(tmp_path: Path, name: str, pooler: str, projection: str | None) -> None:
    MODELS[name].save_pretrained(tmp_path / "tower")
    words = {"hf_model_name": str(tmp_path / "tower"), "hf_model_pretrained": False, "hf_pooler_type": pooler,
             "hf_proj_type": projection}  # fmt: skip
    embed_dim = 20 if projection else MODELS[name].hidden_size
    reference = written(
        tmp_path, {"embed_dim": embed_dim, "vision_cfg": VISION, "text_cfg": words, "custom_text": True}
    )
    pad = MODELS[name].pad_token_id
    ids = torch.randint(2, 90, (3, 13))
    ids[0, 4:] = pad
    check(reference, tmp_path, (48, 48), ids, ids != pad)


@pytest.mark.parametrize("name", ["bert", "roberta"])
@torch.no_grad()
def test_berts_and_robertas_need_no_config(tmp_path: Path, name: str) -> None:
    MODELS[name].save_pretrained(tmp_path / name)
    words = {"hf_model_name": str(tmp_path / name), "hf_model_pretrained": False, "hf_pooler_type": "mean_pooler"}
    config = {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": words, "custom_text": True}
    reference = written(tmp_path, config)
    words["hf_model_name"] = f"nobody/tiny-{name}-of-this-test"
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    pad = MODELS[name].pad_token_id
    ids = torch.randint(2, 90, (3, 13))
    ids[0, 4:] = pad
    check(reference, tmp_path, (48, 48), ids, ids != pad)


@torch.no_grad()
def test_texts_of_a_folder_as_open_clip_does_it(tmp_path: Path) -> None:
    byte_level(tmp_path / "tokens", "<s> $A </s>")
    shutil.copytree(tmp_path / "tokens", tmp_path / "model")
    MODELS["roberta"].save_pretrained(tmp_path / "tower")
    words = {"hf_model_name": str(tmp_path / "tower"), "hf_tokenizer_name": "somewhere/else", "hf_model_pretrained": False,
             "context_length": 8, "vocab_size": 320, "tokenizer_kwargs": {"clean": "canonicalize"}}  # fmt: skip
    transformers.RobertaConfig.from_pretrained(tmp_path / "tower", vocab_size=320).save_pretrained(tmp_path / "tower")
    reference = written(
        tmp_path / "model", {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": words, "custom_text": True}
    )
    tokenizer = library.tokenizer.HFTokenizer(str(tmp_path / "tokens"), context_length=8, clean="canonicalize")
    texts = ["A dog, in the snow!", "two cats_and a dog that runs by the sea"]
    expected = reference.encode_text(tokenizer(texts), normalize=True)
    torch.testing.assert_close(vlp.load(tmp_path / "model").embed_texts(texts), expected, atol=1e-5, rtol=0)


MULTIMODAL = {"context_length": 13, "vocab_size": 90, "width": 48, "heads": 3, "layers": 2}
COCA_TEXT = TEXT | {"embed_cls": True, "output_tokens": True}
POOLED = {"attentional_pool": True, "attn_pooler_queries": 7, "attn_pooler_heads": 4, "output_tokens": True}
COCA = {
    "pooled": {"embed_dim": 48, "vision_cfg": VISION | POOLED, "text_cfg": COCA_TEXT, "multimodal_cfg": MULTIMODAL},
    "equal_widths": {"embed_dim": 48, "vision_cfg": VISION | POOLED | {"width": 48, "head_width": 12},
                     "text_cfg": COCA_TEXT, "multimodal_cfg": MULTIMODAL, "quick_gelu": True},
    "unpooled": {"embed_dim": 20, "vision_cfg": VISION | {"width": 48, "head_width": 12, "output_tokens": True},
                 "text_cfg": COCA_TEXT, "multimodal_cfg": MULTIMODAL},
}  # fmt: skip


@pytest.mark.parametrize("name", COCA)
@torch.no_grad()
def test_coca(tmp_path: Path, name: str) -> None:
    reference = written(tmp_path, COCA[name])
    ids = torch.randint(1, 90, (2, 13))
    ids[0, 5:], ids[1, 3] = 0, 0  # padding, and a real token with the padding's id
    mask = torch.ones(2, 13, dtype=torch.bool)
    mask[0, 5:] = False
    model = check(reference, tmp_path, (48, 48), ids, mask)
    pixels = torch.randn(2, 3, 48, 48)
    expected = reference(pixels, ids, output_labels=False)["logits"]
    memory = model.encode_image(Image(pixels=pixels))
    ours = model.decode(text(ids, mask), memory)
    torch.testing.assert_close(ours[mask], expected[mask], atol=1e-5, rtol=1e-5)
    assert float(ours[~mask].abs().max()) == 0
    short = model.decode(text(ids[:, :5], mask[:, :5]), memory)
    torch.testing.assert_close(short, ours[:, :5], atol=1e-5, rtol=1e-5)
    assert not [key for key in model.state_dict() if key.startswith("decoder._text")]


@torch.no_grad()
def test_coca_writes_token_by_token_what_it_scores_at_once(tmp_path: Path) -> None:
    written(tmp_path, COCA["pooled"])
    model = opened(tmp_path)
    memory = model.encode_image(Image(pixels=torch.randn(3, 3, 48, 48)))
    rules = GenerationRules(end_id=89, pad_id=0, max_length=8)
    cache, prompt = model.decoder.empty_cache(memory), torch.full((3, 1), 88)
    ids = greedy_search(model.decoder.step, cache, prompt, rules)
    logits = model.decode(text(ids, ids >= 0), memory)
    assert torch.equal(logits.argmax(-1)[:, :-1][ids[:, 1:] != 0], ids[:, 1:][ids[:, 1:] != 0])
    assert beam_search(model.decoder.step, cache, prompt, rules, beams=3).shape[0] == 3


@torch.no_grad()
def test_cocas_reference_numbers(shared: Path) -> None:
    folder = shared / "reference" / "open_clip" / "coca"
    model, inputs, expected = opened(folder), arrays(folder / "inputs.npz"), arrays(folder / "outputs.npz")
    ours = outputs(model, inputs["image"], text(inputs["text"]))
    for name in ("image", "text"):
        found = torch.nn.functional.normalize(ours[name], dim=-1)
        torch.testing.assert_close(found, expected[f"{name}_features"], atol=1e-5, rtol=0)
    tokens = inputs["text"][:, : expected["logits"].shape[1]]
    memory = model.encode_image(Image(pixels=inputs["image"]))
    logits = model.decode(text(tokens, torch.ones_like(tokens)), memory)
    torch.testing.assert_close(logits, expected["logits"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(48, 24), (24, 60)])
@torch.no_grad()
def test_oblong_images(tmp_path: Path, size: tuple[int, int]) -> None:
    config = {"embed_dim": 20, "vision_cfg": VISION | {"image_size": size}, "text_cfg": TEXT}
    reference = written(tmp_path, config)
    check(reference, tmp_path, size, torch.randint(1, 90, (2, 13)))
    picture = PIL.Image.effect_noise((90, 70), 60).convert("RGB")
    pixels = library.image_transform(size, is_train=False)(picture)
    expected = reference.encode_image(pixels[None], normalize=True)
    torch.testing.assert_close(vlp.load(tmp_path).embed_images([picture]), expected, atol=1e-5, rtol=0)
    square = vlp.load(tmp_path, image_size=[36, 48])
    assert square.embed_images([picture]).shape == (1, 20)


def test_what_is_not_built_is_named(tmp_path: Path) -> None:
    vision = timm_vision("test_vit", image_size=160, timm_pool="avg")
    written(tmp_path, config := {"embed_dim": 20, "vision_cfg": vision, "text_cfg": TEXT})
    for change, message in (
        ({"vision_cfg": vision | {"timm_pool": "rot_attn"}}, r"timm_pool=rot_attn"),
        ({"multimodal_cfg": MULTIMODAL}, "own towers alone"),
    ):
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config | change}))
        with pytest.raises(ValueError, match=message):
            opened(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(ValueError, match=r"put its open_clip_config\.json beside it"):
        opened(tmp_path / "open_clip_model.safetensors")
