"""Hugging Face folders of open-vocabulary detectors: OwlViTForObjectDetection and Owlv2ForObjectDetection.

Both are CLIP whose states all pass the last norm, and a detection head on them: each patch times the class token, a norm, a box of
three linear maps and a class embedding that is compared with texts (Minderer et al., arXiv:2205.06230; OWLv2, with a score of
being anything, arXiv:2306.09683). The head becomes that of the task `detection`. Texts are pooled at their highest id.
OWL-ViT's pictures are made square; OWLv2's are placed at the top left of a black square (transformers 5; grey in older versions).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import save_file

from vlp.checkpoints import hugging_face, preprocessing, tensor_files
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import KeyRow, State, to_ours, to_theirs
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

_KINDS: dict[str, tuple[str, Any]] = {
    "owlvit": ("OwlViTForObjectDetection", transformers.OwlViTConfig),
    "owlv2": ("Owlv2ForObjectDetection", transformers.Owlv2Config),
}
_DETECTOR = "detection.detector"
_HEADS = ("box_head.", "class_head.", "objectness_head.", "layer_norm.")  # the other keys begin with the kind's name
TABLE = [
    KeyRow("vision.class_token", "vision_model.embeddings.class_embedding"),
    KeyRow("vision.positions", "vision_model.embeddings.position_embedding.weight"),
    KeyRow("vision.patches.weight", "vision_model.embeddings.patch_embedding.weight"),
    KeyRow("vision.norm_pre.*", "vision_model.pre_layernorm.*"),
    *hugging_face.block_rows("vision", "vision_model"),
    KeyRow("vision.norm_post.*", "vision_model.post_layernorm.*"),
    KeyRow("projection.image.weight", "visual_projection.weight"),
    *hugging_face.text_rows(),
    KeyRow("projection.text.weight", "text_projection.weight"),
    KeyRow("projection.logit_scale", "logit_scale"),
    KeyRow(f"{_DETECTOR}.places.norm.*", "layer_norm.*"),
    KeyRow(f"{_DETECTOR}.boxes.mlp.layers.{{}}.*", "box_head.dense{}.*"),
    KeyRow(f"{_DETECTOR}.scores.*", "class_head.*"),
    KeyRow(f"{_DETECTOR}.objectness.layers.{{}}.*", "objectness_head.dense{}.*"),
    KeyRow(None, "vision_model.embeddings.position_ids"),
    KeyRow(None, "text_model.embeddings.position_ids"),
    KeyRow(None, "box_bias"),  # computed from the grid
]
HEAD = {"class_token": True, "layers": 3, "anchor": "owl"}  # settings of `PlaceDetector` that the two formats share
_PLAIN: dict[str, Any] = {
    "norm": True,
    "place_levels": [],
    "mask_channels": 0,
    "width": None,
}  # and those left as they are


def matches(folder: Path) -> bool:
    return read_json_object(folder / "config.json").get("model_type") in _KINDS


def read(folder: Path, architecture: dict[str, Any]) -> Checkpoint:
    hugging_face.refuse_unknown_options(architecture)
    file_config = read_json_object(folder / "config.json")
    kind = str(file_config["model_type"])
    name, config_class = _KINDS[kind]
    found = (file_config.get("architectures") or [name])[0]
    if found != name:
        raise UserError(f"{folder} holds a {found}; of {kind} vlp reads {name}")
    config: Any = config_class(**file_config)
    vision, text = config.vision_config, config.text_config
    state = to_ours(
        {key.removeprefix(f"{kind}."): value for key, value in hugging_face.read_weights(folder).items()}, TABLE
    )
    heads = {key: state.pop(key) for key in list(state) if key.startswith(_DETECTOR)}
    model = {
        "_target_": "vlp.models.vlm.VisionLanguageModel",
        "vision": {
            "_target_": "vlp.models.vision.clip_vit.ClipVit",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            **hugging_face.tower(vision, "OWL-ViT"),
            "norm_states": True,
        },
        "text": {
            "_target_": "vlp.models.text.clip_text.ClipText",
            "vocabulary_size": text.vocab_size,
            "context_length": text.max_position_embeddings,
            **hugging_face.tower(text, "OWL-ViT"),
            "pool": "argmax",
            "pad_id": text.pad_token_id if text.pad_token_id is not None else 0,
        },
        "projection": hugging_face.linear_projection(vision.hidden_size, text.hidden_size, config.projection_dim),
    }
    task = _detection(vision, embed_width=config.projection_dim, objectness=kind == "owlv2")
    checkpoint = Checkpoint(
        config={"model": model, "transform": _transform(kind, vision.image_size), "objectives": {"detection": task}},
        state=state,
        heads=heads,
        vocabulary=folder,
        antialias=False,
    )
    preprocessing.add_preprocessing(checkpoint.config, folder)
    return checkpoint


def _detection(vision: Any, *, embed_width: int, objectness: bool) -> dict[str, Any]:
    """The task's node: it has no class names, as whoever uses it names what is looked for."""
    head = {
        "_target_": "vlp.models.dense.detector.PlaceDetector",
        "_partial_": True,
        **HEAD,
        "eps": vision.layer_norm_eps,
        "objectness": objectness,
    }
    return {
        "_target_": "vlp.tasks.detection.Detection",
        "names": "texts",
        "class_names": [],
        "states_width": vision.hidden_size,
        "embed_width": embed_width,
        "templates": ["a photo of a {}"],
        "head": head,
    }


def _transform(kind: str, image_size: int) -> dict[str, Any]:
    if kind == "owlvit":
        return preprocessing.hugging_face_transform(image_size, "squash")
    return preprocessing.letterbox(image_size, interpolation="bilinear")


def fits(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has the head of these formats, so that `write` should say what else it lacks, if anything."""
    node = (checkpoint.config.get("objectives") or {}).get("detection") or {}
    return (node.get("head") or {}).get("anchor") == "owl" and any(
        key.startswith(_DETECTOR) for key in checkpoint.heads
    )


def write(config: dict[str, Any], state: State, heads: State, folder: Path) -> None:
    """A folder of OWLv2 where the head has an objectness, else of OWL-ViT. Raises UserError for what transformers could not run as
    the same model. config: a checkpoint's.  heads: of which those of other tasks are left out."""
    model, head = config["model"], config["objectives"]["detection"]["head"]
    kind = "owlv2" if head.get("objectness") else "owlvit"
    _refuse_other_forms(model, config["objectives"]["detection"], kind)
    ours = state | {key: value for key, value in heads.items() if key.startswith(_DETECTOR)}
    dtypes = {value.dtype for value in ours.values()}
    theirs = to_theirs(ours if len(dtypes) == 1 else tensor_files.to_float32(ours), TABLE)
    theirs = {key if key.startswith(_HEADS) else f"{kind}.{key}": value.contiguous() for key, value in theirs.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config_json(model, kind, theirs), indent=2) + "\n")
    processor = {"owlvit": "OwlViTImageProcessor", "owlv2": "Owlv2ImageProcessor"}[kind]
    preprocessing.write_preprocessing(folder, processor, config)


def _refuse_other_forms(model: dict[str, Any], task: dict[str, Any], kind: str) -> None:
    vision, text, head = model["vision"], model["text"], task["head"]
    vision_form = {"pool": "class", "pre_norm": True, "patch_bias": False, "norm_states": True}
    head_form = _PLAIN | HEAD | {"eps": vision.get("norm_eps", 1e-5)}
    levels = {"place_levels": list(head.get("place_levels") or ())}
    parts: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("model.vision", vision_form | {"norm_states": False} | vision, vision_form),
        ("model.text", {"causal": True} | text, {"causal": True}),
        ("tasks.detection", task, {"names": "texts"}),
        ("tasks.detection.head", _PLAIN | {"eps": 1e-5} | head | levels, head_form),
    ]
    wrong = [
        f"{part}.{key}={node.get(key)}" for part, node, form in parts for key in form if node.get(key) != form[key]
    ]
    end = text.get("pool", "end")
    if end != "argmax" and not (end == "eot" and text.get("eot_id") == text["vocabulary_size"] - 1):
        wrong.append(f"model.text.pool={end} where the end of a text has not the highest id")
    targets = [
        (model.get(name) or {}).get("_target_", "nothing").rpartition(".")[2]
        for name in ("vision", "text", "projection")
    ]
    if targets != ["ClipVit", "ClipText", "LinearProjection"]:
        wrong.append(f"the parts {', '.join(targets)}")
    if wrong:
        raise UserError(f"transformers' {_KINDS[kind][0]} has another form than {', '.join(wrong)}")


def _config_json(model: dict[str, Any], kind: str, theirs: State) -> dict[str, Any]:
    vision, text, size = model["vision"], model["text"], model["text"]["vocabulary_size"]
    return {
        "architectures": [_KINDS[kind][0]],
        "model_type": kind,
        "dtype": str(theirs["layer_norm.weight"].dtype).removeprefix("torch."),
        "projection_dim": model["projection"]["width"],
        "vision_config": {
            **hugging_face.tower_json(vision, f"{kind}.vision_model", theirs),
            "model_type": f"{kind}_vision_model",
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        "text_config": {
            **hugging_face.tower_json(text, f"{kind}.text_model", theirs),
            "model_type": f"{kind}_text_model",
            "vocab_size": size,
            "max_position_embeddings": text["context_length"],
            "bos_token_id": size - 2,
            "eos_token_id": size - 1,
            "pad_token_id": text.get("pad_id", 0),
        },
    }
