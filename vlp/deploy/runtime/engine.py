"""open_artifact(folder) → Engine: the verbs of `vlp.predictor.Predictor` without torch, in numpy.

    engine = open_artifact("artifacts/clip")
    engine.similarity(["dog.jpg"], ["a dog", "a cat"])

Verbs that need gradients or draw random numbers (explain, fill_mask, generate, edit, inpaint) stay with torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vlp.data.inputs import require_list, require_pairs
from vlp.deploy.runtime import classify as classes
from vlp.deploy.runtime import pairs, photo_verbs
from vlp.deploy.runtime.abilities import VERBS
from vlp.deploy.runtime.equal_inputs import Results, pixel_keys, require_finite, text_keys
from vlp.deploy.runtime.graphs import Graphs
from vlp.deploy.runtime.manifest import (
    TOKENIZER_NAME,
    TRANSFORM_NAME,
    Manifest,
    read_manifest,
    verify_files,
)
from vlp.deploy.runtime.preprocess import Picture, PicturePreprocessing, read_preprocessing
from vlp.deploy.runtime.sessions import require_threads
from vlp.deploy.runtime.tokenize import ArtifactTokenizer
from vlp.system.errors import UserError


def open_artifact(folder: str | Path, *, threads: int | None = None, verify: bool = True) -> Engine:
    """Graphs, tokenizer and transform are read when they are first needed; `Engine.load` reads all.

    threads: of one call of a graph; None = all cores.  verify: compare each file with its digest before it is read.  Raises
    FileNotFoundError or UserError for a folder that is no artifact, or a damaged one.
    """
    path = Path(folder).expanduser()
    require_threads(threads)
    manifest, fingerprint = read_manifest(path)
    return Engine(path, manifest, fingerprint, threads=threads, verify=verify)


class Engine:
    """May be used by several threads at once. What is compared (embeddings, logits, probabilities) is float32, a UserError where it
    is not finite; equal inputs of a call have equal results.

    fingerprint: sha256 of the manifest, which names the digest of every file: equal for equal artifacts.
    batch_size: inputs computed at a time.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        fingerprint: str,
        *,
        threads: int | None = None,
        verify: bool = True,
        batch_size: int = 32,
    ) -> None:
        self.folder, self.manifest, self.fingerprint, self.batch_size = folder, manifest, fingerprint, batch_size
        self.graphs = Graphs(folder, manifest, threads=threads, verify=verify)
        self._verify = verify

    @property
    def width(self) -> int | None:
        """Of the joint space; None = there is none."""
        return self.manifest.width

    @property
    def verbs(self) -> tuple[str, ...]:
        return self.manifest.verbs

    def load(self) -> None:
        """Reads everything now, so that no later call finds a damaged file or has to wait."""
        for name in self.manifest.graphs:
            self.graphs.load(name)
        if self.manifest.image_size is not None:
            _ = self.preprocessing
        if self.manifest.tokenizer is not None:
            _ = self.tokenizer

    @cached_property
    def preprocessing(self) -> PicturePreprocessing:
        self._check(TRANSFORM_NAME, "reads no pictures")
        return read_preprocessing(self.folder / TRANSFORM_NAME)

    @cached_property
    def tokenizer(self) -> ArtifactTokenizer:
        self._check(TOKENIZER_NAME, "reads no texts")
        if self.manifest.tokenizer is None:
            raise UserError(f"{self.folder}: the manifest has no rules for {TOKENIZER_NAME}")
        return ArtifactTokenizer(self.folder / TOKENIZER_NAME, self.manifest.tokenizer)

    def _check(self, name: str, lack: str) -> None:
        if name not in self.manifest.files:
            raise UserError(f"{self.folder}: this artifact {lack}: it has no {name}")
        if self._verify:
            verify_files(self.folder, self.manifest, (name,))

    def require(self, verb: str) -> None:
        """Raises UserError where the artifact does not have it, or there is no such verb."""
        if verb not in VERBS:
            raise UserError(f"there is no verb {verb!r}; the verbs are {', '.join(VERBS)}")
        if verb not in self.verbs:
            graphs = " or ".join(" and ".join(sorted(each)) for each in VERBS[verb])
            raise UserError(
                f"{self.folder}: this artifact cannot {verb.replace('_', ' ')}, which needs {graphs}; it has: "
                f"{', '.join(self.verbs)}"
            )

    def load_pixels(self, pictures: Sequence[Picture]) -> UInt8[np.ndarray, "b 3 h w"]:
        """pictures: paths, bytes of files or Pillow's images.  Raises ImageError, which names the file."""
        return self.preprocessing.load(require_list(pictures, "images")).pixels

    def tokenize(
        self, texts: Sequence[Any], kind: str = "caption"
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Ids and which of them are real.  texts: strings.  kind: caption, question or answer."""
        return self.tokenizer(require_list(texts, "texts"), kind=kind)

    def embed_pixels(self, pixels: UInt8[np.ndarray, "b 3 h w"]) -> Float[np.ndarray, "b e"]:
        """Of unit length.  pixels: of the artifact's image_size, as `load_pixels` gives them."""
        self.require("embed_images")
        self._check_pixels(pixels)
        name = "image" if "image" in self.graphs else "image_places"
        return require_finite(self.graphs.run(name, {"pixels": pixels})["image_embeds"], "embeddings")

    def _check_pixels(self, pixels: np.ndarray) -> None:
        expected = (3, *(self.manifest.image_size or ()))
        if pixels.ndim != 4 or pixels.shape[1:] != expected or pixels.dtype != np.uint8 or not len(pixels):
            shape = " x ".join(map(str, pixels.shape))
            raise UserError(f"pixels of {shape} ({pixels.dtype}): give uint8 of b x {' x '.join(map(str, expected))}")

    def embed_tokens(self, ids: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"]) -> Float[np.ndarray, "b e"]:
        """Of unit length.  ids, mask: as `tokenize` gives them."""
        self.require("embed_texts")
        return require_finite(self.graphs.run("text", {"ids": ids, "mask": mask})["text_embeds"], "embeddings")

    def embed_images(self, images: Sequence[Picture]) -> Float[np.ndarray, "n e"]:
        """Of unit length; equal pictures have equal embeddings."""
        self.require("embed_images")
        results: Results[np.ndarray] = Results()
        rows: list[np.ndarray] = []
        for batch in self.batches(images, "images"):
            pixels = self.load_pixels(batch)
            rows += results.get(pixel_keys(pixels), self.embed_pixels, pixels)
        return np.stack(rows)

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        """Of unit length; texts of equal tokens have equal embeddings."""
        self.require("embed_texts")
        results: Results[np.ndarray] = Results()
        rows: list[np.ndarray] = []
        for batch in self.batches(texts, "texts"):
            ids, mask = self.tokenize(batch)
            rows += results.get(text_keys(ids, mask), self.embed_tokens, ids, mask)
        return np.stack(rows)

    def similarity(self, images: Sequence[Picture], texts: Sequence[str]) -> Float[np.ndarray, "n m"]:
        """Logits: cosines with the model's temperature and bias. Equal pictures and equal texts have equal logits."""
        self.require("similarity")
        return self.compare(self.embed_images(images), self.embed_texts(texts))

    def compare(
        self, image_embeds: Float[np.ndarray, "n e"], text_embeds: Float[np.ndarray, "m e"]
    ) -> Float[np.ndarray, "n m"]:
        """The same of embeddings."""
        image, image_row = np.unique(image_embeds, axis=0, return_inverse=True)
        text, text_row = np.unique(text_embeds, axis=0, return_inverse=True)
        logits = (image @ text.T) * np.float32(self.manifest.logit_scale or 1.0) + np.float32(
            self.manifest.logit_bias or 0.0
        )
        return require_finite(logits, "similarities")[image_row.reshape(-1)][:, text_row.reshape(-1)]

    def classify(
        self, images: Sequence[Picture], labels: Sequence[str] | None = None, templates: Sequence[str] | None = None
    ) -> list[dict[str, float]]:
        """The probability of each label, for each image.  labels, templates: see `Predictor.classify`."""
        self.require("classify")
        return classes.classify(self, images, labels, templates)

    def match(self, images: Sequence[Picture], texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        """The probability that text i belongs to image i, by the head of image-text matching."""
        self.require("match")
        return pairs.match(self, images, texts)

    def answer(
        self, images: Sequence[Picture], questions: Sequence[str], answers: Sequence[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """For question i about image i the best answers with their probabilities, best first.  answers: those to choose from, for a
        decoder that ranks them; none = the artifact's own."""
        self.require("answer")
        return pairs.answer(self, images, questions, answers)

    def caption(self, images: Sequence[Picture]) -> list[str]:
        """One for each image, written as the checkpoint's captioning task says: beam or greedy search."""
        self.require("caption")
        return photo_verbs.caption(self, images)

    def detect(
        self, images: Sequence[Picture], labels: Sequence[str] | None = None, *, threshold: float | None = None
    ) -> list[list[dict[str, Any]]]:
        """For each image what is more probable than `threshold` (None = the checkpoint's), the most probable first: `box` (left,
        top, right, bottom in pixels of the upright photo), `label`, `score`, and `mask` [height width] of a detector with masks.
        labels: see `Predictor.detect`."""
        self.require("detect")
        return photo_verbs.detect(self, images, labels, threshold)

    def segment(self, images: Sequence[Picture], labels: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """For each image `names` and `classes` [height width], the index of each pixel's class among them, at the size of the
        upright photo.  labels: see `Predictor.segment`."""
        self.require("segment")
        return photo_verbs.segment(self, images, labels)

    def ground(self, images: Sequence[Picture], phrases: Sequence[str], *, heat: bool = False) -> list[dict[str, Any]]:
        """For phrase i about image i: `box` around the warmest places (left, top, right, bottom in pixels of the upright photo) and
        `score`, the probability of a match where the artifact has that verb, else None.  heat: also `heat` [rows columns].

        The heat of a place is the dot product of its projected state with the phrase's embedding: no gradients, unlike
        `Predictor.ground`, so the boxes are others."""
        self.require("ground")
        return pairs.ground(self, images, phrases, heat=heat)

    def batches(self, inputs: Sequence[Any], name: str) -> Iterator[list[Any]]:
        require_list(inputs, name)
        for start in range(0, len(inputs), self.batch_size):
            yield list(inputs[start : start + self.batch_size])

    def pair_batches(
        self, images: Sequence[Any], texts: Sequence[Any], name: str
    ) -> Iterator[tuple[list[Any], list[Any]]]:
        """Batches of images and their texts.  name: of the texts, for messages."""
        require_pairs(images, texts, name)
        return zip(self.batches(images, "images"), self.batches(texts, name), strict=True)
