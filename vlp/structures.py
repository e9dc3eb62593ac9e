"""The records that flow through vlp: raw sample → batch → tower tokens → features → loss. Read this file first.

Shapes: b batch, c channels, h w pixels, t text tokens, n tokens of a tower, d width, p pooled width, e joint space,
k choices or captions, a answers, m boxes. Shapes are checked while the tests run (jaxtyping's import hook).
Every record moves as one object: `.to(device)`, `.pin_memory()`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from vlp.system.errors import UserError
from vlp.system.image_sizes import height_and_width as height_and_width
from vlp.system.renamed import RenamedMethod, renamed_attributes
from vlp.system.tar_members import Member as Member

R = TypeVar("R", bound="Record")
T = TypeVar("T")


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Record):
        return value.map(function)
    if isinstance(value, list):
        return [_map_tensors(item, function) for item in value]
    if isinstance(value, dict):
        return {key: _map_tensors(item, function) for key, item in value.items()}
    return value


def require(field: T | None) -> T:
    """An optional field of a batch or of features that is known to be there, as an objective declares it in `requires` or
    `uses`."""
    assert field is not None
    return field


def require_finite(values: Tensor, name: str) -> Tensor:
    """The same values.  Raises UserError where one is NaN or infinite: every comparison with NaN is false, so an argmax, a rank
    or a threshold would make an answer of it."""
    if not bool(values.isfinite().all()):
        raise UserError(f"{name} contain NaN or infinity: the model has diverged; use an earlier checkpoint")
    return values


class Record:
    """Base of the frozen records."""

    def map(self: R, function: Callable[[Tensor], Tensor]) -> R:
        """The record with `function` applied to every tensor in it, also in nested records, lists and dictionaries."""
        fields = {f.name: _map_tensors(getattr(self, f.name), function) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return type(self)(**fields)

    def to(self: R, device: torch.device | str, non_blocking: bool = False) -> R:
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: R) -> R:
        return self.map(lambda tensor: tensor.pin_memory())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Record):
    """Token ids padded to the longest text of the batch; `mask` is True on real tokens, start and end included.

    regions: of each token the positions of the boxes that it mentions, among its sample's (`Sample.tags`), padded with -1; None
    = not asked for."""

    ids: Int[Tensor, "*b t"]
    mask: Bool[Tensor, "*b t"]
    regions: Int[Tensor, "*b t r"] | None = None

    def select(self, index: Any) -> Text:
        """The selected rows of a [b t] text, cut to the longest of them (at least one column)."""
        ids, mask = self.ids[index], self.mask[index]
        used = mask.flatten(0, -2).any(0).nonzero()
        length = int(used[-1]) + 1 if len(used) else 1
        regions = None if self.regions is None else self.regions[index][..., :length, :]
        return Text(ids=ids[..., :length], mask=mask[..., :length], regions=regions)

    def real_rows(self) -> tuple[Text, Int[Tensor, " rows"]]:
        """The non-empty rows of a [b k t] text as [rows t], and for each the index in b that it belongs to."""
        real = self.mask.any(-1)
        regions = None if self.regions is None else self.regions[real]
        return Text(ids=self.ids[real], mask=self.mask[real], regions=regions), real.nonzero()[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image(Record):
    """uint8 pixels are raw RGB, which the tower normalises by its own mean and standard deviation; floats are normalised."""

    pixels: UInt8[Tensor, "*b c h w"] | Float[Tensor, "*b c h w"]
    size: Int[Tensor, "*b 2"] | None = None  # true rows and columns of a padded image

    def select(self, index: Any) -> Image:
        return Image(pixels=self.pixels[index], size=None if self.size is None else self.size[index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes(Record):
    """Boxes of one image: left, top, right, bottom in [0, 1] of the transformed image.

    label: the class of each; where boxes belong to captions, the position of the caption among those of its image.
    crowd: boxes around many things of a class (COCO's `iscrowd`); None = none is.
    mask: the pixels of each thing, at the size of the transformed image; None = the data have no masks.
    absent, not_exhaustive: where not every class was looked for in every image (LVIS), the classes that the image is known
    not to show, and those of which not every thing has a box; a class that is among neither these nor `label` is unknown.
    index: where texts mention boxes (`Sample.tags`), the position of each among the sample's boxes, of which a view may cut
    some; else None.
    """

    xyxy: Float[Tensor, "m 4"]
    label: Int[Tensor, " m"]
    crowd: Bool[Tensor, " m"] | None = None
    mask: Bool[Tensor, "m h w"] | None = None
    absent: Int[Tensor, " absent"] | None = None
    not_exhaustive: Int[Tensor, " not_exhaustive"] | None = None
    index: Int[Tensor, " m"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segments(Record):
    """The segments of one image that are visible in it, without crowds: their classes, and for each pixel of the transformed
    image the position of its segment in this list; -1 = none (void or a crowd)."""

    label: Int[Tensor, " m"]
    index: Int[Tensor, "h w"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blank:
    """A word of a caption that a cloze task may remove, `captions[caption][start:end]`; `words` are all correct answers."""

    caption: int
    start: int
    end: int
    words: tuple[str, ...]
    kind: str = "word"


NO_IMAGE = Path()  # the image of a sample that has none, only texts


class Segment(NamedTuple):
    """One segment of a photo: its id in the map of ids, its class, whether it is many things of that class (COCO's `iscrowd`),
    and the number of its pixels where the annotation says it."""

    id: int
    label: int
    crowd: bool = False
    area: int | None = None


class Tag(NamedTuple):
    """Words of one of a sample's texts that stand for boxes of its photo: `texts[text][start:end]`, where the texts are the
    question, the choices and the rationales, in this order (`Sample.texts`).

    boxes: positions in `Sample.boxes`; empty = the annotation points to nothing."""

    text: int
    start: int
    end: int
    boxes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One raw example as a data set lists it; the image is a file, opened only when the sample is loaded, or `NO_IMAGE`.

    `id` is equal only for the same image, also across sources; `sample` is the annotation's own id (the position
    in the split where a data set has none). `choices` with `label`: candidate texts and the index of the correct one;
    `rationales` with `rationale_label`: candidate reasons why the correct choice is right, and the index of the true one.
    `answers`: one for each annotator, so an answer is listed as often as it was given.
    """

    id: int
    sample: int
    image: Path | Member
    captions: tuple[str, ...] = ()
    question: str | None = None
    history: tuple[str, ...] = ()  # of a dialogue: what was said before the question, oldest first
    choices: tuple[str, ...] = ()
    relevance: tuple[float, ...] = ()  # of each choice, from 0 to 1, where people (or the truth of a scene) gave it
    answers: tuple[str, ...] = ()
    answer_weight: float = 1.0  # in the loss, of all answers together (ALBEF: 0.5 for Visual Genome's)
    question_type: str | None = None  # VQA v2: the first words of the question
    answer_type: str | None = None  # VQA v2: "yes/no", "number" or "other"
    label: int | None = None
    rationales: tuple[str, ...] = ()
    rationale_label: int | None = None
    tags: tuple[Tag, ...] = ()  # where question, choices and rationales mention boxes
    marks: tuple[int, ...] = ()  # positions of the boxes that are drawn into the picture
    mark_colours: tuple[tuple[int, int, int], ...] = ()  # red, green and blue of each of them, from 0 to 255
    blanks: tuple[Blank, ...] = ()  # words of the captions that can only be known from the image
    also_true: tuple[tuple[int, ...], ...] = ()  # for each caption, ids of other images that it describes, where known
    categories: tuple[int, ...] = ()  # every class that the image shows (COCO), as indices into the class names
    # `crop` and `boxes`: left, top, right and bottom in pixels of the upright photo
    crop: tuple[int | float, ...] | None = None  # the part of the photo that the sample describes
    boxes: tuple[tuple[int | float, ...], ...] | None = None  # of objects, or of captions if `box_labels` is empty
    box_labels: tuple[int, ...] = ()  # class of each box
    box_captions: tuple[int, ...] = ()  # index of each box's caption; empty, as `box_labels` = box i is of caption i
    box_crowds: tuple[bool, ...] = ()  # whether each is around many things of its class; empty = none is
    # of each box, as COCO writes it: polygons, a run-length code or its compressed form, at the photo's size
    box_masks: tuple[Any, ...] = ()
    # classes of which it is known that the image shows none, and those of which not every thing has a box (LVIS); None =
    # every thing of every class has one
    absent_categories: tuple[int, ...] | None = None
    not_exhaustive: tuple[int, ...] = ()
    border: int = 0  # pixels at each edge that are no part of the photo (ObjectNet's red frame)
    as_stored: bool = False  # all annotations are of the photo as its file stores it: EXIF's orientation is not applied
    panoptic: Path | None = None  # an image file of segment ids, see vlp/data/pixel_labels.py
    segments: tuple[Segment, ...] = ()  # of that file
    # an image file of one value for each pixel of the photo (grey, or indices of a palette), and the class of each of its 256
    # values; 255 = ignored
    label_map: Path | None = None
    label_classes: bytes = b""

    @property
    def texts(self) -> tuple[str, ...]:
        """The question (empty if there is none), the choices and the rationales: what `tags` count by."""
        return (self.question or "", *self.choices, *self.rationales)

    @property
    def has_image(self) -> bool:
        return self.image != NO_IMAGE

    @property
    def annotated(self) -> bool:
        """Whether the sample has a caption, a question, a class, boxes or classes of its pixels, to train or evaluate on; a list
        of no boxes says that the image shows nothing."""
        return bool(
            self.captions
            or self.question
            or self.label is not None
            or self.categories
            or self.boxes is not None
            or self.panoptic is not None
            or self.label_map is not None
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherEmbeddings(Record):
    """What a frozen teacher makes of a batch, in its own joint space, of unit length: of each picture as the teacher's own
    evaluation transform shows it, and of each real row of the captions (`Text.real_rows`). A side that no objective asked for, or
    that the teacher cannot embed, is None."""

    image: Float[Tensor, "b w"] | None = None
    text: Float[Tensor, "r w"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch(Record):
    """The input of objectives and tasks. Fields that a data set lacks are None.

    pictured: which samples have an image, where some of the data set have none: then `image` has a row for each of those alone,
    in their order, and is None in a batch without any. None = every sample has one.
    """

    id: Int[Tensor, " b"]
    sample: Int[Tensor, " b"]
    seed: Int[Tensor, " b"]  # per-sample randomness of (run seed, epoch, sample): the same on any number of processes
    image: Image | None = None
    pictured: Bool[Tensor, " b"] | None = None
    caption: Text | None = None  # [b t] in training; [b k t] with empty rows masked in evaluation
    also_true: Int[Tensor, "b k m"] | None = None  # ids of other images that each caption describes, padded with -1
    question: Text | None = None
    choices: Text | None = None  # [b k t]
    relevance: Float[Tensor, "b k"] | None = None  # of each choice, from 0 to 1; -1 where unknown
    answer: Text | None = None
    answer_weight: Float[Tensor, "b n"] | None = None  # of each different answer
    scores: Float[Tensor, "b a"] | None = None
    label: Int[Tensor, " b"] | None = None  # -1 where unknown
    rationales: Text | None = None  # [b k t]
    rationale_label: Int[Tensor, " b"] | None = None  # -1 where unknown
    categories: Bool[Tensor, "b a"] | None = None
    boxes: list[Boxes] | None = None
    # left, top, width and height, in pixels of the upright photo (`Sample.as_stored`: of the stored one), of what the image
    # shows, without what collate pads it with; a negative width: mirrored, and left is then the right edge
    frame: Float[Tensor, "b 4"] | None = None
    segmentation: Int[Tensor, "b h w"] | None = None  # class of each pixel; 255 is ignored
    segments: list[Segments] | None = None
    teachers: dict[str, TeacherEmbeddings] | None = None  # in training, by the teacher's name
    raw: tuple[Sample, ...] | None = None  # in evaluation: reference captions, file names for figures

    def __len__(self) -> int:
        return len(self.id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens(Record):
    """The output of every tower. `mask` None means that all tokens are real, which allows flash attention."""

    states: Float[Tensor, "b n d"]
    pooled: Float[Tensor, "b p"]
    mask: Bool[Tensor, "b n"] | None = None
    ids: Int[Tensor, "b n"] | None = None
    grid: tuple[int, int] | None = None  # (rows, columns): the last rows·columns states are the raster
    levels: dict[str, Float[Tensor, "b _ _ _"]] | None = (
        None  # maps of inner modules by name, where they were asked for
    )

    def select(self, index: Any) -> Tokens:
        rows: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[index]
            for name in ("states", "pooled", "mask", "ids")
        }
        levels = None if self.levels is None else {name: level[index] for name, level in self.levels.items()}
        return dataclasses.replace(self, levels=levels, **rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossAttentionCache(Record):
    """An image's states as each fusion layer's cross-attention keys and values (g heads of width k), computed once per
    image and attended to by any number of texts. `mask` is True on real tokens."""

    layers: list[Float[Tensor, "b two g m k"]]
    mask: Bool[Tensor, "b m"] | None = None

    def select(self, index: Any) -> CrossAttentionCache:
        return CrossAttentionCache(
            layers=[layer[index] for layer in self.layers], mask=None if self.mask is None else self.mask[index]
        )

    def attention_mask(self) -> Bool[Tensor, "b 1 1 m"] | None:
        return None if self.mask is None else self.mask[:, None, None, :]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heat(Record):
    """How much each cell of an image's raster adds to a score, in no particular unit: only comparable within an image."""

    values: Float[Tensor, "b rows columns"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Momentum(Record):
    """What the slowly moving copy of the model makes of the same batch, without gradient; fields as in `Features`.

    `copy_of(module)` is the copy of any part of the model (the model itself included) or of any objective's head.
    """

    copy_of: Callable[[nn.Module], Any]
    image: Tokens | None = None
    text: Tokens | None = None
    memory: CrossAttentionCache | Tokens | None = None
    image_embed: Float[Tensor, "b e"] | None = None
    text_embed: Float[Tensor, "r e"] | None = None
    twin = RenamedMethod("copy_of")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features(Record):
    """Computed once per batch and shared by all objectives; only the fields that some objective `uses` are filled.

    Embeddings are projected and of unit length. Texts are the real rows of `batch.caption`; `owner` tells which
    sample of the batch each row belongs to (0, 1, 2, … for one caption a sample). `memory` is what the fusion needs of
    the images: row i is image i.
    """

    image: Tokens | None = None
    text: Tokens | None = None
    memory: CrossAttentionCache | Tokens | None = None
    momentum: Momentum | None = None
    image_embed: Float[Tensor, "b e"] | None = None
    text_embed: Float[Tensor, "r e"] | None = None
    owner: Int[Tensor, " r"] | None = None
    step: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """An objective's loss and the figures to log (scalars without gradient)."""

    value: Float[Tensor, ""]
    logs: dict[str, Float[Tensor, ""]] = dataclasses.field(default_factory=dict)


__getattr__ = renamed_attributes("vlp.structures", {"Memory": "vlp.structures.CrossAttentionCache"})
