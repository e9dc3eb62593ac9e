"""Any text encoder of transformers (BERT, RoBERTa, MPNet, …), from a hub name, a folder or a plain config.

Code that comes with weights is never run: there is no `trust_remote_code`, nor an attention kernel from the hub.
"""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn

from vlp.structures import Text, Tokens


class TransformersText(nn.Module):
    """name: a hub name or local folder; with `weights` false only its config is used.
    config: instead of a name, the config as a plain dict (`model_type: bert`, …); weights are then random.
    pool: 'pooler' = the model's own (BERT: a dense layer and tanh on [CLS]), 'class' = the first token, 'mean' = the
    mean over real tokens.
    vocabulary_size: of the tokenizer; random weights get as many embeddings, and pretrained ones must have enough.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        weights: bool | None = None,
        config: dict[str, Any] | None = None,
        pool: str = "pooler",
        vocabulary_size: int | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("pooler", "class", "mean"):
            raise ValueError(f"unknown pool {pool!r}: choose pooler, class or mean")
        self.backbone = backbone("text", name, weights, config, vocabulary_size=vocabulary_size)
        settings = self.backbone.config
        if vocabulary_size is not None and vocabulary_size > settings.vocab_size:
            raise ValueError(
                f"the tokenizer has {vocabulary_size} tokens but {name or 'this config'} only {settings.vocab_size} "
                "embeddings: choose the tokenizer of these weights"
            )
        self.pool, self.width = pool, settings.hidden_size
        self.context_length, self.vocabulary_size = settings.max_position_embeddings, settings.vocab_size
        if pool != "pooler" and getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # its parameters would never get a gradient

    def forward(self, text: Text) -> Tokens:
        if text.ids.shape[1] > self.context_length:
            raise ValueError(
                f"texts of {text.ids.shape[1]} tokens for a tower of {self.context_length}: set tokenizer.context_length"
            )
        output = self.backbone(input_ids=text.ids, attention_mask=text.mask.long(), return_dict=True)
        states = output.last_hidden_state
        if self.pool == "pooler":
            if output.get("pooler_output") is None:
                raise ValueError(f"{type(self.backbone).__name__} has no pooler: set model.text.pool to class or mean")
            pooled = output.pooler_output
        elif self.pool == "class":
            pooled = states[:, 0]
        else:
            weight = text.mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weight).sum(1) / weight.sum(1).clamp(min=1)
        return Tokens(states=states, pooled=pooled, mask=text.mask, ids=text.ids)

    def architecture(self) -> dict[str, Any]:
        config = self.backbone.config.to_dict()
        return {"name": None, "weights": None, "config": config, "pool": self.pool, "vocabulary_size": None}


_UNSAFE = ("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def backbone(
    part: str,
    name: str | None,
    weights: bool | None,
    config: dict[str, Any] | None,
    *,
    vocabulary_size: int | None = None,
) -> nn.Module:
    """The bare transformers model of one tower; of a two-tower model, such as CLIP, that tower alone."""
    if (name is None) == (config is None):
        raise ValueError(f"give either model.{part}.name (hub name or folder) or model.{part}.config")
    if config is not None:
        if weights:
            raise ValueError(f"a config alone has no weights: give model.{part}.name")
        plain = {key: value for key, value in config.items() if key not in (*_UNSAFE, "model_type")}
        settings = transformers.AutoConfig.for_model(config["model_type"], **plain)
    else:
        settings = _hub(part, name, transformers.AutoConfig.from_pretrained)
        settings = getattr(settings, f"{part}_config", settings)
    if config is None and weights is not False:
        reader = type(transformers.AutoModel.from_config(settings)).from_pretrained
        return _hub(part, name, lambda where: reader(where, config=settings, dtype="float32"))
    if vocabulary_size is not None:
        settings.vocab_size = vocabulary_size
    return transformers.AutoModel.from_config(settings)


def _hub(part: str, name: str | None, read: Any) -> Any:
    try:
        return read(name)
    except OSError as error:
        raise FileNotFoundError(
            f"transformers found no model {name!r}: there is no such folder here, and the hub did not answer with one. "
            f"Download it where there is network and give the folder: model.{part}.name=FOLDER"
        ) from error
