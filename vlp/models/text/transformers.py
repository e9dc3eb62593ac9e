"""Any text encoder of transformers (BERT, RoBERTa, MPNet, …), from a hub name, a folder or a plain config.

Code that comes with weights is never run: there is no `trust_remote_code`, nor an attention kernel from the hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from vlp.models.tokens import check_pool, check_text_length, masked_mean
from vlp.structures import Text, Tokens
from vlp.system.errors import UserError
from vlp.system.weight_folders import uses_safetensors


class TransformersText(nn.Module):
    """name: a hub name or local folder.  weights: False = random, of the architecture of `config`, a plain dict
    (`model_type: bert`, …), or else of `name`.
    pool: 'pooler' = the model's own (BERT: a dense layer and tanh on [CLS]), 'class' = the first token, 'mean' = the
    mean over real tokens.
    vocabulary_size: of the tokenizer; random weights get as many embeddings, and pretrained ones must have enough.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        weights: bool = True,
        config: dict[str, Any] | None = None,
        pool: str = "pooler",
        vocabulary_size: int | None = None,
    ) -> None:
        super().__init__()
        check_pool(pool, ("pooler", "class", "mean"))
        self.backbone: Any = remove_unused_pooler(build_backbone("text", name, weights, config, vocabulary_size), pool)
        settings = self.backbone.config
        if vocabulary_size is not None and vocabulary_size > settings.vocab_size:
            raise UserError(
                f"the tokenizer has {vocabulary_size} tokens but {name or 'this config'} only {settings.vocab_size} "
                "embeddings: choose the tokenizer of these weights"
            )
        self.pool, self.width = pool, settings.hidden_size
        # RoBERTa and its kin number the positions of real tokens from padding_idx + 1
        unused = getattr(getattr(self.backbone, "embeddings", None), "padding_idx", -1) + 1
        positions = getattr(settings, "max_position_embeddings", None)  # T5 has relative positions, of any length
        self.context_length = _ANY_LENGTH if positions is None else positions - unused
        self.vocabulary_size = settings.vocab_size

    def forward(self, text: Text) -> Tokens:
        check_text_length(text.ids.shape[1], self.context_length)
        output = self.backbone(input_ids=text.ids, attention_mask=text.mask.long(), return_dict=True)
        states = output.last_hidden_state
        if self.pool == "pooler":
            if output.get("pooler_output") is None:
                raise UserError(f"{type(self.backbone).__name__} has no pooler: set model.text.pool to class or mean")
            pooled = output.pooler_output
        elif self.pool == "class":
            pooled = states[:, 0]
        else:
            pooled = masked_mean(states, text.mask)
        return Tokens(states=states, pooled=pooled, mask=text.mask, ids=text.ids)

    def architecture(self) -> dict[str, Any]:
        config = self.backbone.config.to_dict()
        return {"name": None, "weights": False, "config": config, "pool": self.pool, "vocabulary_size": None}


_ANY_LENGTH = 512  # tokens, which T5 was trained with
_UNSAFE_KEYS = {"auto_map"} | {f"{dash}{kind}_implementation" for dash in ("", "_") for kind in ("attn", "experts")}


def build_backbone(
    part: str,
    name: str | None,
    weights: bool,
    config: dict[str, Any] | None,
    vocabulary_size: int | None = None,
) -> nn.Module:
    """The transformers model of one tower without heads; of a two-tower model, such as CLIP, that tower alone."""
    if name is None and (weights or config is None):
        raise UserError(f"model.{part} needs a name (hub name or folder), or weights=false and a config")
    if weights or config is None:
        settings = _read_from_hub(part, name, transformers.AutoConfig.from_pretrained)
        settings = getattr(settings, f"{part}_config", settings)
    else:
        plain = {key: value for key, value in config.items() if key not in _UNSAFE_KEYS | {"model_type"}}
        settings = transformers.AutoConfig.for_model(config["model_type"], **plain)
    if weights:
        with torch.device("meta"):
            kind = type(transformers.AutoModel.from_config(settings))
        options = {"use_safetensors": uses_safetensors(Path(str(name)))} if Path(str(name)).is_dir() else {}
        return _read_from_hub(
            part, name, lambda where: kind.from_pretrained(where, config=settings, dtype=torch.float32, **options)
        )
    if vocabulary_size is not None:
        settings.vocab_size = vocabulary_size
    model: Any = transformers.AutoModel.from_config(settings)
    return model.get_encoder() if settings.is_encoder_decoder else model


def remove_unused_pooler(model: Any, pool: str) -> Any:
    """A pooler that is not used would have parameters that never get a gradient. One without parameters stays, since
    convolutional backbones call theirs in any case (ResNet, RegNet)."""
    pooler = getattr(model, "pooler", None)
    if pool != "pooler" and pooler is not None and any(True for _ in pooler.parameters()):
        model.pooler = None
    return model


def _read_from_hub(part: str, name: str | None, read: Any) -> Any:
    try:
        return read(name)
    except OSError as error:
        raise FileNotFoundError(
            f"transformers found no model {name!r}: there is no such folder here, and the hub did not answer with one. "
            f"Download it where there is network and give the folder: model.{part}.name=FOLDER"
        ) from error
