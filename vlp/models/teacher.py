"""A frozen model that a smaller one learns from: its embeddings of every training picture and caption, computed once.

The teacher reads with its own tokenizer and its own evaluation transform, so it may be of any family that `vlp.load` reads, and it
sees each picture without augmentation, as MobileCLIP's stored embeddings are made (Vasu et al., arXiv:2311.17049, §3; it stores
several augmentations of a picture, here it is one). The collate function takes a batch's rows from the table, so objectives never
see a second forward pass, and the teacher is in no checkpoint of the student.

Pictures and captions are computed in groups that depend on the data alone, whatever the number of processes, and what a folder
holds is never changed: a run that is resumed, or is given more processes, reads the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp import distributed
from vlp.data.datamodule import DataModule
from vlp.data.pictures import TransformedPictures, picture_loader
from vlp.models.equal_inputs import content_keys
from vlp.models.feature_store import FeatureStore, fingerprint
from vlp.models.precision import to_float32
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Sample, TeacherEmbeddings, Text, Tokens, require_finite
from vlp.system.errors import UserError
from vlp.system.progress import Progress

SIDES = ("image", "text")
_FORMAT = 1  # increase it with any change of this file or of a tower's code that changes embeddings
_GROUP = 64  # pictures or captions in one forward pass
_TOWERS = {"image": "vision", "text": "text"}


class Teacher:
    """model: in evaluation mode.  transform: picture → uint8 pixels.  tokenizer: called when captions are read.
    path, sha256: of its checkpoint, which runs record."""

    def __init__(
        self,
        *,
        name: str,
        model: VisionLanguageModel,
        transform: Callable[..., Tensor] | None,
        tokenizer: Callable[[], Any],
        path: str,
        sha256: str,
    ) -> None:
        self.name, self.path, self.sha256 = name, path, sha256
        self.model = model.eval().requires_grad_(False)
        self.transform, self.tokenizer = transform, tokenizer

    @property
    def width(self) -> int:
        """Of its joint space; of a tower without a projection (ImageNet's, DINO's), of its pooled feature."""
        part: Any = self.model.projection or self.model.vision or self.model.text
        width: int = part.width
        return width

    @property
    def logit_scale(self) -> float | None:
        """What its own logits multiply cosines by; None without a joint space of images and texts."""
        scale = getattr(self.model.projection, "scale", None)
        return None if scale is None else float(scale())

    def check(self, sides: Sequence[str]) -> None:
        """Raises UserError where it cannot embed one of these sides, or what it needs to read it is missing."""
        for side in sides:
            projected = self.model.projection is None or getattr(self.model.projection, side, True) is not None
            if getattr(self.model, _TOWERS[side]) is None or not projected:
                what = "text tower" if side == "text" else "image tower"
                raise UserError(
                    f"teachers.{self.name}={self.path} has no {what} to learn from: give another checkpoint, or leave {side} "
                    "out of the objective's sides"
                )
        if "image" in sides and self.transform is None:
            raise UserError(
                f"teachers.{self.name}={self.path}: its image preprocessing is not one that vlp knows: convert it to a checkpoint "
                "of vlp with a transform first"
            )
        if "text" in sides:
            try:
                self.tokenizer()
            except FileNotFoundError as error:
                raise UserError(
                    f"teachers.{self.name}={self.path} has no tokenizer for its captions: {error}"
                ) from error

    @torch.no_grad()
    def embed_training_data(
        self, data: DataModule, sides: Sequence[str], *, device: torch.device, folder: str | Path | None = None
    ) -> EmbeddingTable:
        """Of the training split; all ranks share the work and all get the table.  folder: of embeddings that are kept for later
        runs; None = they are computed again."""
        self.check(sides)
        samples = data.split("train")
        self.model.to(device)
        pictures, captions = _distinct_inputs(samples, sides)
        with Progress("inputs", show=distributed.rank() == 0) as progress:
            report = _Report(progress, self.name)
            images = texts = None
            if "image" in sides:
                images = self._embed_pictures(data, list(pictures.values()), device, folder, report)
            if "text" in sides:
                texts = self._embed_captions(list(captions), device, folder, report)
        self.model.to("cpu")
        return EmbeddingTable(
            self.name, pictures=pictures, captions=captions, images=images, texts=texts, logit_scale=self.logit_scale
        )

    def _embed_pictures(
        self, data: DataModule, positions: list[int], device: torch.device, folder: str | Path | None, report: _Report
    ) -> Float[Tensor, "n w"]:
        """Rows of NaN for pictures that cannot be read: training replaces these samples."""
        assert self.transform is not None
        samples = data.split("train")
        pictures = TransformedPictures(
            samples, name=f"{data.name} train", transform=self.transform, skip_unreadable=True
        )
        loader = picture_loader(pictures, _groups_of_this_rank(positions), data)
        row_of = {position: row for row, position in enumerate(positions)}
        store, rows, embeds = self._store("image", device, folder), [], []
        for found, image in loader:
            rows += [row_of[position] for position in found]
            if image is not None:
                embeds.append(self._embed("image", image, device, store))
            report("pictures", len(found), len(positions))
        return self._gather(rows, embeds, len(positions), device)

    def _embed_captions(
        self, captions: list[str], device: torch.device, folder: str | Path | None, report: _Report
    ) -> Float[Tensor, "n w"]:
        tokenizer = self.tokenizer()
        store, rows, embeds = self._store("text", device, folder), [], []
        for group in _groups_of_this_rank(range(len(captions))):
            rows += list(group)
            embeds.append(self._embed("text", tokenizer([captions[row] for row in group]), device, store))
            report("captions", len(group), len(captions))
        return self._gather(rows, embeds, len(captions), device)

    def _embed(
        self, side: str, inputs: Image | Text, device: torch.device, store: FeatureStore | None
    ) -> Float[Tensor, "b w"]:
        """On the CPU. Where one of the group is not stored the entire group is computed, as it would be without a store."""
        keys = content_keys(inputs)
        known = {} if store is None else store.read(keys)
        if any(key not in known for key in keys):
            computed = self._forward(side, inputs.to(device)).cpu()
            known = {key: row[None] for key, row in reversed(list(zip(keys, computed, strict=True)))}
            known |= {} if store is None else store.write(known)
        return torch.cat([known[key] for key in keys])

    def _forward(self, side: str, inputs: Any) -> Float[Tensor, "b w"]:
        encode: Any = self.model.encode_image if side == "image" else self.model.encode_text
        tokens: Tokens = encode(inputs, pooled_only=True)
        if self.model.projection is None:
            return F.normalize(to_float32(tokens.pooled), dim=-1)
        return self.model.embed_image(tokens) if side == "image" else self.model.embed_text(tokens)

    def _store(self, side: str, device: torch.device, folder: str | Path | None) -> FeatureStore | None:
        if folder is None:
            return None
        parts = [getattr(self.model, _TOWERS[side]), self.model.projection]
        read = nn.ModuleList([part for part in parts if part is not None])
        settings = [_FORMAT, side, device.type, torch.__version__, torch.are_deterministic_algorithms_enabled()]
        return FeatureStore(folder, fingerprint(read, str(settings)), width=self.width, dtype=torch.float32)

    def _gather(self, rows: list[int], embeds: list[Tensor], count: int, device: torch.device) -> Float[Tensor, "n w"]:
        own = torch.cat([torch.zeros(0, self.width), *embeds]).to(device)
        require_finite(own, f"embeddings of teacher {self.name}")
        index = distributed.gather(torch.tensor(rows, dtype=torch.int64, device=device))
        return torch.full((count, self.width), torch.nan).index_copy(0, index.cpu(), distributed.gather(own).cpu())


class EmbeddingTable:
    """A teacher's embeddings of the pictures and captions of one data source, in memory: 4 bytes a number, once for all loader
    processes of a rank that are forked.

    pictures, captions: in the order of the rows of images and texts.
    """

    def __init__(
        self,
        name: str,
        *,
        pictures: Mapping[Any, Any],
        captions: Mapping[str, Any],
        images: Float[Tensor, "n w"] | None,
        texts: Float[Tensor, "m w"] | None,
        logit_scale: float | None = None,
    ) -> None:
        self.name, self.images, self.texts, self.logit_scale = name, images, texts, logit_scale
        self._pictures = {key: row for row, key in enumerate(pictures)}
        self._captions = {key: row for row, key in enumerate(captions)}

    def __call__(self, samples: Sequence[Sample], captions: Sequence[str]) -> TeacherEmbeddings:
        """Raises UserError for what the teacher has not seen."""
        image = text = None
        if self.images is not None:
            image = self.images[self._rows(self._pictures, [picture_key(sample) for sample in samples])]
            if bool(image.isnan().any()):
                lost = next(sample for sample, row in zip(samples, image, strict=True) if bool(row.isnan().any()))
                raise UserError(
                    f"teacher {self.name} could not read {lost.image}, which training reads: replace the file"
                )
        if self.texts is not None:
            text = self.texts[self._rows(self._captions, captions)]
        return TeacherEmbeddings(image=image, text=text)

    def _rows(self, known: Mapping[Any, int], keys: Sequence[Any]) -> Int[Tensor, " b"]:
        lost = next((key for key in keys if key not in known), None)
        if lost is not None:
            raise UserError(
                f"teacher {self.name} has no embedding of {lost!r}: the training data changed after the run began"
            )
        return torch.tensor([known[key] for key in keys], dtype=torch.int64)


class _Report:
    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.name, self.done = progress, name, {"pictures": 0, "captions": 0}

    def __call__(self, kind: str, count: int, total: int) -> None:
        self.done[kind] = min(total, self.done[kind] + count * distributed.world_size())
        self.progress.update(f"{kind} of teacher {self.name}", self.done[kind], total)


def picture_key(sample: Sample) -> tuple[Any, ...]:
    """Equal for samples that show the same part of the same file."""
    return str(sample.image), sample.crop, sample.border, sample.as_stored


def _distinct_inputs(samples: Sequence[Sample], sides: Sequence[str]) -> tuple[dict[Any, int], dict[str, None]]:
    """The first position of each different picture, and the different captions, in the order of the samples."""
    pictures: dict[Any, int] = {}
    captions: dict[str, None] = {}
    for position, sample in enumerate(samples):
        if "image" in sides:
            pictures.setdefault(picture_key(sample), position)
        if "text" in sides:
            captions |= dict.fromkeys(sample.captions)
    return pictures, captions


def _groups_of_this_rank(positions: Sequence[int]) -> list[Sequence[int]]:
    groups = [positions[start : start + _GROUP] for start in range(0, len(positions), _GROUP)]
    return groups[distributed.rank() :: distributed.world_size()]
