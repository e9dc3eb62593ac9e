"""A frozen model's features of every image of a split: the evaluation transform, no augmentation, each image once.

Kinds: `pooled` is the vision tower's pooled feature, which for CLIP's transformers lies before the projection, as its linear
probes have it (openai/CLIP#353); `embed` is the unit-length embedding of the joint space. Ranks share the work, all get all
features, in the order of the split, and a folder keeps them for later runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp import distributed
from vlp.data.datamodule import DataModule
from vlp.data.loader import Loader
from vlp.data.pictures import TransformedPictures, picture_loader
from vlp.models.equal_inputs import content_keys
from vlp.models.feature_store import FeatureStore, fingerprint
from vlp.models.precision import to_float32
from vlp.models.probes.labelled import Labelled
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, require_finite
from vlp.system.errors import UserError

KINDS = ("pooled", "embed")
_FORMAT = 1  # increase it with any change of this file or of a tower's code that changes features


def feature_width(model: VisionLanguageModel, kind: str) -> int:
    """Raises UserError for an unknown kind."""
    if kind not in KINDS:
        raise UserError(f"features={kind}: choose pooled, before the projection, or embed, of the joint space")
    width: int = model.part("projection" if kind == "embed" else "vision").width
    return width


@torch.no_grad()
def split_features(
    model: VisionLanguageModel,
    data: DataModule,
    split: str,
    *,
    kinds: Sequence[str] = ("pooled",),
    folder: str | Path | None = None,
) -> dict[str, Labelled]:
    """By kind, on the CPU in float32, of the samples whose class is known.  folder: of cached features; None = they are computed.

    To be called in evaluation mode and within the run's precision.  Raises UserError where the data have no class names, an image
    cannot be read, or a feature is not finite.
    """
    widths = {kind: feature_width(model, kind) for kind in kinds}
    samples = data.split(split)
    known, targets, exclusive = class_targets(data, split)
    positions = range(distributed.rank(), len(samples), distributed.world_size())
    stores = {kind: _open_store(model, kind, folder) for kind in kinds}
    rows: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    device = next(model.parameters()).device
    for _, image in _load(data, split, positions):
        keys = content_keys(image)
        cached = {kind: {} if store is None else store.read(keys) for kind, store in stores.items()}
        missing = [row for row, key in enumerate(keys) if any(key not in cached[kind] for kind in kinds)]
        computed = _compute(model, image.select(missing).to(device), kinds) if missing else {}
        for kind, features in computed.items():
            fresh = {keys[row]: feature[None] for row, feature in zip(missing, features, strict=True)}
            store = stores[kind]
            cached[kind] |= fresh if store is None else fresh | store.write(fresh)
        for kind in kinds:
            rows[kind] += [cached[kind][key] for key in keys]
    order = torch.arange(len(samples))
    arrival = torch.cat([order[rank :: distributed.world_size()] for rank in range(distributed.world_size())])
    result = {}
    for kind in kinds:
        own = torch.cat([torch.zeros(0, widths[kind]), *rows[kind]])
        features = distributed.gather(own.to(device)).cpu()[arrival.argsort()]
        require_finite(features, f"features of {data.name} {split}")
        result[kind] = Labelled(features=features[known], targets=targets[known], exclusive=exclusive)
    return result


def class_targets(data: DataModule, split: str) -> tuple[Bool[Tensor, " n"], Bool[Tensor, "n c"], bool]:
    """(whether the class is known, the classes, whether each image has exactly one) of the samples of a split.

    A label beside choices says which of these is correct, and is no class.  Raises UserError without class names.
    """
    samples, names = data.split(split), data.class_names
    if not names:
        raise UserError(f"{data.name} has no class names, which a classifier needs: choose data with classes")
    targets = torch.zeros(len(samples), len(names), dtype=torch.bool)
    known = torch.ones(len(samples), dtype=torch.bool)
    several = any(sample.categories for sample in samples)
    for row, sample in enumerate(samples):
        if several:
            targets[row, list(sample.categories)] = True
        elif sample.label is not None and sample.label >= 0 and not sample.choices:
            targets[row, sample.label] = True
        else:
            known[row] = False
    return known, targets, not several


def _load(data: DataModule, split: str, positions: range) -> Loader:
    size = data.eval_batch_size
    pictures = TransformedPictures(data.split(split), name=f"{data.name} {split}", transform=data.transform["eval"])
    return picture_loader(pictures, [positions[start : start + size] for start in range(0, len(positions), size)], data)


def _compute(model: VisionLanguageModel, image: Image, kinds: Sequence[str]) -> dict[str, Float[Tensor, "b d"]]:
    tokens = model.encode_image(image, pooled_only=True)
    embeds = {"embed": model.embed_image(tokens)} if "embed" in kinds else {}
    found = {"pooled": tokens.pooled} | embeds
    return {kind: to_float32(found[kind]).cpu() for kind in kinds}


def _open_store(model: VisionLanguageModel, kind: str, folder: str | Path | None) -> FeatureStore | None:
    if folder is None:
        return None
    read = nn.ModuleList([model.part("vision"), *([model.part("projection")] if kind == "embed" else [])])
    device = next(model.parameters()).device.type
    precision = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "full"
    name = fingerprint(read, str([_FORMAT, kind, device, precision, torch.__version__]))
    return FeatureStore(folder, name, width=feature_width(model, kind), dtype=torch.float32)
