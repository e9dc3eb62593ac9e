"""Config → tokenizer, transforms and data, for training, evaluation, the doctor and the `vlp data` commands alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlp.build import build
from vlp.data.datamodule import DataModule
from vlp.data.mixture import Mixture
from vlp.data.sampler import evaluated_positions
from vlp.data.transforms import Transform


def build_tokenizer(config: dict[str, Any]) -> Any:
    return build(config["tokenizer"])


def build_transform(config: dict[str, Any]) -> dict[str, Transform]:
    """By split: "train" and "eval"."""
    return {split: build(node) for split, node in config["transform"].items()}


def build_data(
    config: dict[str, Any], *, tokenizer: Any = None, transform: dict[str, Any] | None = None
) -> DataModule | Mixture:
    """tokenizer, transform: those of a checkpoint; None = as the config has them, and no tokenizer where it has none."""
    return build(
        config["data"],
        tokenizer=build_tokenizer(config) if tokenizer is None and "tokenizer" in config else tokenizer,
        transform=build_transform(config) if transform is None else transform,
        seed=config["seed"],
    )


def eval_split_statistics(
    data: DataModule | Mixture, extents: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """What was evaluated of each val and test split (of several sources: <split>/<source>): the numbers of samples, images,
    captions and questions, and the sha256 of file names and texts.

    "split_samples" is the size of the split; "part" says how much was evaluated, and is None where it was everything.
    "<task>/part" is there for a task that counts fewer samples than were evaluated, for example those with a label.

    extents: by split, "samples" of each source (how many each rank has evaluated), "counted" by each <source>/<task> and the
    tasks' "cards"; a split or source that is missing was not evaluated.  None = all of both splits.
    """
    values: dict[str, Any] = {}
    for split in ("val", "test") if extents is None else extents:
        extent = {} if extents is None else extents[split]
        values |= {f"{split}/{name}": value for name, value in extent.get("cards", {}).items()}
        for name, source in data.sources_with_split(split).items():
            samples = source.split(split)
            counts = [len(samples)] if extents is None else extent.get("samples", {}).get(name, ())
            positions = evaluated_positions(len(samples), counts)
            if not positions:
                continue
            prefix = split if list(data.sources) == [data.name] else f"{split}/{name}"
            values |= {f"{prefix}/{key}": value for key, value in _statistics(source, split, positions).items()}
            for task, count in extent.get("counted", {}).items():
                if task.startswith(f"{name}/") and count < len(positions):
                    values[f"{prefix}/{task.removeprefix(f'{name}/')}/part"] = f"{count} of {len(samples)} samples"
    return values


def _statistics(source: DataModule, split: str, positions: Sequence[int]) -> dict[str, Any]:
    samples = source.split(split)
    complete = len(positions) == len(samples)
    evaluated = samples if complete else [samples[position] for position in positions]
    values = {
        "samples": len(positions),
        "split_samples": len(samples),
        "part": None if complete else f"{len(positions)} of {len(samples)} samples",
        "images": len({sample.id for sample in evaluated if sample.has_image}),
        "captions": sum(len(sample.captions) for sample in evaluated),
    }
    if questions := sum(sample.question is not None for sample in evaluated):
        values["questions"] = questions
    return values | {"sha256": source.fingerprint(split, None if complete else positions)}
