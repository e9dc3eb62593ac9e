"""Config → tokenizer, transforms and data, for training, evaluation, the doctor and the `vlp data` commands alike."""

from __future__ import annotations

from typing import Any

from vlp.build import build
from vlp.data.datamodule import DataModule
from vlp.data.mixture import Mixture
from vlp.data.transforms import Transform


def build_tokenizer(config: dict[str, Any]) -> Any:
    return build(config["tokenizer"])


def build_transform(config: dict[str, Any]) -> dict[str, Transform]:
    """By split: "train" and "eval"."""
    return {split: build(node) for split, node in config["transform"].items()}


def build_data(
    config: dict[str, Any], *, tokenizer: Any = None, transform: dict[str, Any] | None = None
) -> DataModule | Mixture:
    """tokenizer, transform: those of a checkpoint; None = as the config has them."""
    return build(
        config["data"],
        tokenizer=build_tokenizer(config) if tokenizer is None else tokenizer,
        transform=build_transform(config) if transform is None else transform,
        seed=config["seed"],
    )


def eval_split_statistics(data: DataModule | Mixture) -> dict[str, Any]:
    """For each val and test split (of several sources: <split>/<source>) the numbers of its images, captions and questions, and
    the sha256 of its file names and texts."""
    values: dict[str, Any] = {}
    for split in ("val", "test"):
        for name, source in data.sources_with_split(split).items():
            samples = source.split(split)
            prefix = split if list(data.sources) == [data.name] else f"{split}/{name}"
            values[f"{prefix}/images"] = len({sample.id for sample in samples})
            values[f"{prefix}/captions"] = sum(len(sample.captions) for sample in samples)
            if questions := sum(sample.question is not None for sample in samples):
                values[f"{prefix}/questions"] = questions
            values[f"{prefix}/sha256"] = source.fingerprint(split)
    return values
