"""What the weights of a checkpoint depend on besides their shapes: token ids, preprocessing, activations, the labels of a head.

A run that starts from a checkpoint takes its tokenizer, and is refused where its own config asks for a part with which the
weights mean something else, although every tensor would fit.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from vlp.build import ALLOWED_IN_FILES, build, import_allowed_class
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.vocabulary import find_tokenizer, same_ids
from vlp.system import ranks
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer
from vlp.upgrade import upgrade_target

_PARTS = ("vision", "text", "fusion", "decoder", "projection")
_FUNCTION = (
    "mean", "std", "heads", "key_value_heads", "activation", "norm_eps", "causal", "pre_norm", "norm_before_pool", "norm_states",
    "divisor", "pool", "stride_in_1x1",
)  # fmt: skip
_END = ("argmax", "eot", "end")  # three rules for one token of the originals' tokenizers, the end of the text


def has_common_embeddings(checkpoint: Checkpoint, model: Mapping[str, Any]) -> bool:
    """Whether a checkpoint and a run's model (as a config) have a text tower or decoder of one class."""
    return any(part in ("text", "decoder") for part, _, _ in _common_parts(checkpoint.config["model"], model))


def tokenizer_of_checkpoint(stored_json: str, own: Tokenizer, *, source: str) -> Tokenizer:
    """The tokenizer that a checkpoint was trained with; which texts it refuses and how it cleans them is this run's choice.

    own: as this run's config has it.  source: what the error calls the checkpoint.  Raises UserError where `own` is of another
    kind, size, context length or vocabulary.
    """
    stored = Tokenizer.from_json(stored_json)
    there, here = _settings(stored), _settings(own)
    differing = [key for key in there if here[key] != there[key]]
    needed, asked = (" ".join(f"{key}={side[key]}" for key in differing) for side in (there, here))
    if not differing and own.trained and not same_ids(stored, own):
        needed, asked = "its own vocabulary", "another tokenizer.vocabulary"
    if asked:
        raise UserError(
            f"{source} was trained with {needed}, and its embeddings belong to the ids of that tokenizer; this run asks for "
            f"{asked}: leave that out, or give what the checkpoint was trained with"
        )
    stored.truncate, stored.cleaning = own.truncate, own.cleaning
    return stored


def _settings(tokenizer: Tokenizer) -> dict[str, Any]:
    names = ("size", "context_length", "add_end")
    kind = type(tokenizer).__module__.rpartition(".")[2]
    return {"tokenizer": kind} | {f"tokenizer.{name}": getattr(tokenizer, name) for name in names}


def check_foreign_tokenizer(checkpoint: Checkpoint, model: Any, own: Tokenizer, *, source: str) -> None:
    """Of a checkpoint in another format, which holds a vocabulary rarely.  model: that of the run.  Raises UserError."""
    kind = str(upgrade_target((checkpoint.config.get("tokenizer") or {}).get("_target_") or ""))
    found = None
    with suppress(FileNotFoundError, UserError):  # no vocabulary on this machine
        found = find_tokenizer(checkpoint, model, None)
    if found is not None:
        kind = f"{type(found).__module__}.{type(found).__name__}"
    agrees = own.trained and kind in ("", f"{type(own).__module__}.{type(own).__name__}")
    if agrees and found is not None:
        agrees = _vocabulary(found) == _vocabulary(own)
    if not agrees:
        fix = f"tokenizer={kind.split('.')[-2]} and its vocabulary" if kind else "tokenizer=clip or tokenizer=wordpiece"
        raise UserError(
            f"{source} was trained with another tokenizer than this run's {type(own).__name__} of {own.size} ids, and its "
            f"embeddings belong to the ids of that one: choose {fix}"
        )


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    assert tokenizer.backend is not None
    return tokenizer.backend.get_vocab(with_added_tokens=True)


def check_function(checkpoint: Checkpoint, model: Mapping[str, Any], *, source: str, strict: bool = True) -> list[str]:
    """Compares the towers of a checkpoint with those of a run, both as configs. Raises UserError where the same weights would
    compute something else; returns the sentence of each change that is allowed: the image size, and with strict=False all of
    them. Warns of the run's settings that are used because the file contains none.

    source: what messages call the checkpoint.
    """
    differing, notes, used = [], [], []
    for part, there, here in _common_parts(checkpoint.config["model"], model):
        for key in _FUNCTION:
            before, now = there.get(key), here.get(key)  # None: left to the weights
            if before is None or now is None:
                continue
            if {key, f"{part}_{key}"} & checkpoint.assumed.keys():
                used.append(f"model.{part}.{key}={_shown(now)}")
            elif key == "pool" and checkpoint.tokenizer_json is None:
                if before != now and not {before, now} <= set(_END):
                    notes.append(f"was trained with model.{part}.pool={before}; this run uses {now}")
            elif not _equal(before, now):
                differing.append(f"model.{part}.{key}={_shown(now)}, not {_shown(before)}")
        before, now = there.get("image_size"), here.get("image_size")
        if before is not None and now is not None and before != now:
            notes.append(f"was trained with model.{part}.image_size={before}; this run uses {now}")
    if used:
        message = f"does not contain these settings, so the run's are used: {', '.join(used)}; set those that it was trained with"
        ranks.warn_once(f"{source} {message}")
    if differing and strict:
        raise UserError(
            f"{source} does not fit this run, though its tensors would: {'; '.join(differing)}: leave it as the checkpoint has it"
        )
    return notes + [f"was trained with other settings than the run has: {text}" for text in differing]


def take_settings(model: Any, checkpoint: Checkpoint) -> list[str]:
    """Gives a vision tower the settings of the checkpoint's tower that it leaves to its weights (`take_settings`). Returns what of
    them the file does not say, in a sentence."""
    take = getattr(getattr(model, "vision", None), "take_settings", None)
    node = checkpoint.config["model"].get("vision")
    if take is None or not isinstance(node, dict):
        return []
    if upgrade_target(node.get("_target_")) != f"{type(model.vision).__module__}.{type(model.vision).__qualname__}":
        return []
    take(node)
    assumed = [checkpoint.assumed[key] for key in _FUNCTION if key in checkpoint.assumed]
    return [f"does not contain all of its settings; assumed: {'; '.join(assumed)}"] if assumed else []


def _common_parts(
    there: Mapping[str, Any], here: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The parts that both configs build with the same class of ours, with the constructor's defaults filled in."""
    for part in _PARTS:
        nodes = [node for side in (there, here) if isinstance(node := side.get(part), Mapping)]
        targets = {str(upgrade_target(node.get("_target_"))) for node in nodes}
        if len(nodes) == 2 and len(targets) == 1 and (target := targets.pop()).startswith("vlp.models."):
            yield part, _with_defaults(target, nodes[0]), _with_defaults(target, nodes[1])


def _with_defaults(target: str, node: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(import_allowed_class(target, ALLOWED_IN_FILES)).parameters.values()
    values = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty} | dict(node)
    if values.get("heads", 0) is None and isinstance(values.get("width"), int):
        values["heads"] = max(1, values["width"] // 64)
    if values.get("key_value_heads", 0) is None:
        values["key_value_heads"] = values.get("heads")
    return values


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, (list, tuple)) else value).replace(" ", "")


def check_labels(checkpoint: Checkpoint, heads: Mapping[str, Any], *, source: str) -> None:
    """The outputs of a head stand for labels in one order. Raises UserError where a run's head has the checkpoint's number of
    labels, so that its weights would fit, and other ones."""
    loaded = {key.partition(".")[0] for key in checkpoint.heads}
    for name, head in heads.items():
        node = (checkpoint.config.get("objectives") or {}).get(name) or {}
        for key in ("answers", "classes") if name in loaded and node else ():
            here, there = getattr(head, key, None), node.get(key)
            if there is None and here is not None and key in getattr(head, "stored", ()):
                there = getattr(build(node, allow=ALLOWED_IN_FILES), key)
            if here and there and len(here) == len(there) and list(here) != list(there):
                first = next(index for index, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1])
                raise UserError(
                    f"{source} was trained with other labels: output {first} of its head for {name} is {there[first]!r}, this "
                    f"run's tasks.{name}.{key} has {here[first]!r} there: give them in the order of the checkpoint"
                )
