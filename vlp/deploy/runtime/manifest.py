"""manifest.json of an artifact: what its graphs take and give, what its model can do, and the digests of its files.

    folder/  manifest.json  transform.json  tokenizer.json  README.md  parity.npz
             image.onnx  text.onnx  …        of OpenVINO: image.xml and image.bin

Graphs, by name: inputs → outputs. b images or texts, t tokens, e joint space, v vocabulary, n places; floats are float32, ids are
int64, masks bool, pixels uint8 [b 3 h w]. Batch, text length and the number of names are dynamic.

    image           pixels → image_embeds [b e], of unit length
    text            ids [b t], mask [b t] → text_embeds [b e], of unit length
    image_places    pixels → image_embeds, place_embeds [b n e], projected and not normalised; n = rows · columns of `places.grid`
    memory          pixels → any tensors of b rows; a graph below that names one of them as an input gets it in place of pixels
    pair            pixels, ids, mask → match_logits [b 2] (no match, match)
    classifier      pixels → class_logits [b c]
    answer          pixels, ids, mask → answer_logits [b a], where `answers.kind` is classify
    prefill         pixels, ids [b t] → logits [b v] of the next token, then the cache: any further outputs, of b rows
    answer_prefill  as prefill, with question_ids [b q] and question_mask [b q]: the decoder of answers
    step            ids [r 1] and the cache → logits [r v], and those tensors of the cache that change with each token, as
                    next_<name> (ONNX gives a name once); the others are of the images, see `DecoderSection.repeat_memory`
    answer_step     of answer_prefill, where it differs from step
    detect          pixels, of open vocabularies also queries [m e] → boxes [b n 4] (centre x, y, width, height in [0, 1]),
                    logits [b n c]; with masks also mask_embeds [b n k], mask_pixels [b k h w]
    segment         pixels, of open vocabularies also queries [c e] → class_logits [b c h w], at any size
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vlp.deploy.runtime.abilities import SECTIONS, VERBS, possible_verbs
from vlp.deploy.runtime.json_records import FieldError, from_json
from vlp.system.atomic import atomic_write_json
from vlp.system.errors import UserError
from vlp.tokenizers.rules import TextRules

FORMAT = 1
MANIFEST_NAME, TRANSFORM_NAME, TOKENIZER_NAME = "manifest.json", "transform.json", "tokenizer.json"
PRECISIONS = ("float32", "bfloat16", "int8")
BACKENDS = ("onnx", "openvino")
GRAPHS: Mapping[str, tuple[str, ...]] = {  # the outputs that each must have
    "image": ("image_embeds",), "text": ("text_embeds",), "image_places": ("image_embeds", "place_embeds"), "memory": (),
    "pair": ("match_logits",), "classifier": ("class_logits",), "answer": ("answer_logits",), "prefill": ("logits",),
    "answer_prefill": ("logits",), "step": ("logits",), "answer_step": ("logits",), "detect": ("boxes", "logits"),
    "segment": ("class_logits",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Graph:
    """file: name in the folder.  backend: one of BACKENDS.  data: further files that `file` refers to (weights beside it).
    inputs, outputs: names, in the graph's own order."""

    file: str
    backend: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class File:
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ClassifierSection:
    """task: classification, probe or prompts.  names: of the columns of class_logits; probabilities are their softmax."""

    task: str
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AnswersSection:
    """See `vlp.tasks.vqa.VQA`.  kind: classify, rank or generate.  names: of the columns (classify) or to be ranked; none = given
    with each question.  first_token_twice, label_smoothing, candidates: of rank.  beams, max_length: of generate."""

    kind: str
    names: tuple[str, ...] = ()
    candidates: int = 128
    first_token_twice: bool = False
    label_smoothing: float = 0.0
    beams: int = 3
    max_length: int = 10


@dataclass(frozen=True, kw_only=True)
class CaptioningSection:
    """See `vlp.tasks.captioning.Captioning`; beams 1 = greedy. Nucleus sampling is not part of an artifact."""

    prompt: str = ""
    beams: int = 3
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DecoderSection:
    """repeat_memory: True = the images' tensors of the cache need one row for each row of ids; False = one for each image, whose
    texts are side by side.  repeat_answer_memory: the same of answer_step."""

    repeat_memory: bool = True
    repeat_answer_memory: bool = True


@dataclass(frozen=True, kw_only=True)
class PlacesSection:
    """grid: rows and columns of the image's places."""

    grid: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class DetectionSection:
    """See `vlp.tasks.detection.Detection`.  names: classes, or texts: queries are the unit mean of a name's prompts.
    class_names: of the columns, or what texts ask for by default.  templates: prompts with {} for a name, of texts."""

    names: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...] = ("a {}",)
    detections: int = 100
    threshold: float = 0.3
    nms: float | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentationSection:
    """See `vlp.tasks.segmentation.Segmentation`.  names, class_names, templates: as of `Detection`.  window, stride: height and
    width in pixels of windows over the image; None = all at once.  palette: red, green, blue of each class, for pictures."""

    names: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...] = ("a {}",)
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """family: a word for people (clip, albef, …).  version, commit: of vlp.  checkpoint: sha256 of what was exported.
    width: of the joint space; None = there is none.  image_size: [height, width] of pixels; None = no images.
    logit_scale: what cosines are multiplied by (not its logarithm); logit_bias: added to them.
    parity, versions, machine: what was measured by the export and with what, for people and reports; they change nothing.
    files: all files of the folder but the manifest.
    """

    format: int = FORMAT
    family: str
    version: str
    commit: str | None = None
    checkpoint: str
    precision: str
    width: int | None = None
    image_size: tuple[int, int] | None = None
    verbs: tuple[str, ...]
    graphs: dict[str, Graph]
    logit_scale: float | None = None
    logit_bias: float | None = None
    tokenizer: TextRules | None = None
    classifier: ClassifierSection | None = None
    answers: AnswersSection | None = None
    captioning: CaptioningSection | None = None
    decoder: DecoderSection | None = None
    places: PlacesSection | None = None
    detection: DetectionSection | None = None
    segmentation: SegmentationSection | None = None
    parity: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)


def list_files(folder: Path) -> dict[str, File]:
    """Of every file of an artifact's folder but the manifest: its digest and size."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        name: File(sha256=file_sha256(folder / name), bytes=(folder / name).stat().st_size)
        for name in names
        if name != MANIFEST_NAME
    }


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """The last file of an artifact: with the digests of the others that lie in the folder.  Raises UserError for a manifest that
    could not be read back."""
    complete = dataclasses.replace(manifest, files=list_files(folder))
    if fault := _first_fault(complete):
        raise UserError(f"{folder / MANIFEST_NAME}: {fault}")
    atomic_write_json(folder / MANIFEST_NAME, dataclasses.asdict(complete))
    return complete


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest, and its own sha256, which stands for the complete artifact. Nothing but its form, and that its files are there
    with their sizes, is checked.  Raises FileNotFoundError or UserError, of one sentence that says what to do."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(_absent(folder))
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); copy the artifact again or write it with vlp export") from error
    if not isinstance(content, dict) or not {"format", "graphs"} <= content.keys():
        raise UserError(f"{path}: is no manifest of an artifact: give a folder that vlp export has written")
    number = content["format"]
    if number != FORMAT:
        newer = isinstance(number, int) and number > FORMAT
        fix = "install a newer vlp" if newer else "write the artifact again with vlp export"
        raise UserError(f"{path}: format {number!r}, and this vlp reads format {FORMAT}: {fix}")
    try:
        manifest = from_json(Manifest, content)
    except (FieldError, UserError) as error:  # of TextRules
        raise UserError(f"{path}: {error}; write the artifact again with vlp export") from error
    if fault := _first_fault(manifest):
        raise UserError(f"{path}: {fault}; write the artifact again with vlp export")
    _check_sizes(folder, manifest)
    return manifest, hashlib.sha256(data).hexdigest()


def verify_files(folder: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Raises UserError for a file whose content is not the one that was exported.  names: of files; None = all."""
    for name in manifest.files if names is None else names:
        if file_sha256(folder / name) != manifest.files[name].sha256:
            raise UserError(f"{folder / name}: its content is not the exported one: copy the artifact again")


def file_sha256(path: Path) -> str:
    """Hexadecimal.  Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _absent(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: there is no such folder; write an artifact with vlp export CHECKPOINT {folder}"
    if not folder.is_dir():
        return f"{folder}: an artifact is a folder, and this is a file: write one with vlp export CHECKPOINT FOLDER"
    return f"{folder}: no {MANIFEST_NAME} in it, so it is no artifact; write one with vlp export CHECKPOINT FOLDER"


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing, though {MANIFEST_NAME} lists it; copy the artifact again")
        if path.stat().st_size != file.bytes:
            raise UserError(f"{path}: {path.stat().st_size} bytes instead of {file.bytes}; copy the artifact again")


def _first_fault(manifest: Manifest) -> str | None:
    """What no artifact of this format may say, for an error."""
    if manifest.precision not in PRECISIONS:
        return f"precision: {manifest.precision!r} is none of {', '.join(PRECISIONS)}"
    if unknown := [verb for verb in manifest.verbs if verb not in VERBS]:
        return f"verbs: {unknown[0]!r} is unknown"
    possible = possible_verbs(manifest.graphs)
    if impossible := [verb for verb in manifest.verbs if verb not in possible]:
        needed = " or ".join(" and ".join(sorted(graphs)) for graphs in VERBS[impossible[0]])
        return f"verbs: {impossible[0]} needs the graphs {needed}"
    if outside := [name for name in manifest.files if not _is_inside(name)]:
        return f"files: {outside[0]!r} is no path inside the folder"
    for name, graph in manifest.graphs.items():
        if name not in GRAPHS:
            return f"graphs: {name!r} is unknown"
        if graph.backend not in BACKENDS:
            return f"graphs.{name}.backend: {graph.backend!r} is none of {', '.join(BACKENDS)}"
        if lacking := [output for output in GRAPHS[name] if output not in graph.outputs]:
            return f"graphs.{name}.outputs: {lacking[0]} is missing"
        if lacking := [section for section in SECTIONS.get(name, ()) if getattr(manifest, section) is None]:
            return f"graphs.{name} needs {lacking[0]}, which is missing"
        if unlisted := [file for file in (graph.file, *graph.data) if file not in manifest.files]:
            return f"graphs.{name}: {unlisted[0]!r} is not among files"
    if (
        {"similarity", "classify"} & set(manifest.verbs)
        and {"text"} <= manifest.graphs.keys()
        and manifest.logit_scale is None
    ):
        return "logit_scale: missing, and cosines are compared"
    return None


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name
