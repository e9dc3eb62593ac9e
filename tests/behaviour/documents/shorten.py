"""Settings that make a documented training short: few images, small batches, one layer, one epoch, and a CPU.

They follow from the composed config, so a command that is new on a page needs none of its own. What the command sets itself is
kept, but for numbers that only say how much is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.sweep.multirun import first_values

IMAGES = {"train": 16, "val": 4, "test": 4}
AT_MOST = {
    "batch_size": 8,
    "eval_batch_size": 8,
    "num_workers": 0,
    "layers": 1,
    "train_images": 16,
    "max_epochs": 1,
    "check_val_every_n_epoch": 1,
}
OF_TRAINING = ("trainer.max_epochs", "trainer.check_val_every_n_epoch")  # which evaluate refuses
AT_MOST_ALWAYS = {"trials": 2, "queue_size": 16, "rerank": 4, "hardness_warmup": 1}
ON_A_CPU = {"trainer.accelerator": "cpu", "trainer.precision": "32-true", "trainer.devices": 2}


@cache
def composer(name: str) -> Composer:
    return Composer(conf=conf_folder(), config_name=name)


def compose(name: str, words: list[str]) -> dict[str, Any]:
    """The config of `train` or `evaluate`, not resolved; of a sweep, with the first value of each key."""
    overrides = first_values(composer(name).parse(words))
    content: Any = OmegaConf.to_container(composer(name).compose(overrides), resolve=False)
    return content


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """Path, key, value and mapping of each leaf; a split's numbers of images are one leaf."""
    for key, value in node.items() if isinstance(node, dict) else ():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and not (key == "images" and _is_counts(value)):
            yield from leaves(value, here)
        else:
            yield here, str(key), value, node


def short_settings(name: str, words: list[str]) -> list[str]:
    """Overrides to append to those of a command.  name: train or evaluate."""
    given = {word.partition("=")[0].lstrip("+~") for word in words}
    if any(word.startswith("resume=") and word != "resume=auto" for word in words):
        return []  # the run's own config is short
    config = compose(name, words)
    changed: dict[str, Any] = {}
    for path, key, value, node in leaves(config):
        number = isinstance(value, int) and not isinstance(value, bool)
        if name == "evaluate" and path in OF_TRAINING:
            continue
        if key == "images" and isinstance(value, dict):
            changed[path] = "{" + ",".join(f"{split}:{count}" for split, count in IMAGES.items()) + "}"
        elif number and value > AT_MOST_ALWAYS.get(key, value):
            changed[path] = AT_MOST_ALWAYS[key]
        elif number and value > AT_MOST.get(key, value) and path not in given:
            changed[path] = AT_MOST[key]
        elif (
            path in ("model.vision.width", "model.text.width")
            and path not in given
            and _may_be_narrow(config["model"], node)
        ):
            changed[path] = 64
    if config["trainer"]["accelerator"] == "gpu":
        changed |= {key: value for key, value in ON_A_CPU.items() if key not in given}
        changed.pop("trainer.devices", None) if config["trainer"]["devices"] != "auto" else None
    chosen = {word.partition("=")[0].split(".")[0] for word in words}
    if name == "train" and chosen - {"trainer", "resume"}:  # else the run is the default one, with all that it writes
        changed |= {} if chosen & {"logger", "loggers"} else {"logger": "none"}
        if not chosen & {"callbacks", "experiment"}:
            changed = {path: value for path, value in changed.items() if not path.startswith("callbacks.")}
            changed["callbacks"] = "[checkpoint,progress]"
    return [f"{key}={value}" for key, value in changed.items()]


def _is_counts(value: dict[str, Any]) -> bool:
    """Of the images of each split, and not their folders."""
    return set(value) == set(IMAGES) and all(isinstance(count, int) for count in value.values())


def _may_be_narrow(model: dict[str, Any], tower: dict[str, Any]) -> bool:
    """A tower whose heads follow from its width, and on which nothing stands but a projection."""
    alone = not any(model.get(part) for part in ("fusion", "decoder"))
    return alone and tower.get("heads", 0) is None and isinstance(tower["width"], int) and tower["width"] > 64
