"""load(checkpoint) → Predictor: embeddings, matches, masked words, answers and captions of paths, pictures and strings.

predictor = vlp.load("runs/scenes/…")          # or an original: OpenAI CLIP, ALBEF, ViLT, BLIP, open_clip, a Hugging Face folder
predictor.similarity(["dog.jpg"], ["a dog", "a cat"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.build import ALLOWED_IN_FILES, build
from vlp.checkpoints.keys import load_strictly
from vlp.checkpoints.load import build_model, read
from vlp.checkpoints.settings import warn_of_assumptions
from vlp.checkpoints.vocabulary import find_tokenizer
from vlp.data.collate import pad_images
from vlp.data.inputs import require_list, require_pairs
from vlp.models.equal_inputs import content_keys, first_equal_positions
from vlp.models.momentum import MomentumCopy
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Text, require_finite
from vlp.system.errors import UserError
from vlp.system.renamed import RenamedMethod
from vlp.tasks.captioning import Captioning
from vlp.tokenizers.base import Tokenizer
from vlp.verbs.classify import classify
from vlp.verbs.detect import detect
from vlp.verbs.ground import ground
from vlp.verbs.pictures import Picture, open_picture
from vlp.verbs.segment import segment
from vlp.verbs.translate import translate

# tasks that a checkpoint can do even where they have no parameters
TASKS_WITHOUT_HEADS = {"vqa", "captioning", "segmentation", "panoptic", "translation"}
Transform = Callable[[PIL.Image.Image], Tensor]


def load(path: str | Path, *, tokenizer: Tokenizer | str | Path | None = None, **architecture: Any) -> Predictor:
    """path: a file or run folder of ours, or an original checkpoint, detected by its content.

    tokenizer: a built one or a vocabulary (file or folder), for checkpoints without one; a missing one, or another than the
    checkpoint was trained with, is an error only when strings are used.
    architecture: what a file does not contain: vision_heads, text_heads (default: width / 64), activation ('quick_gelu',
    'gelu'), or another image_size; None = not given. A setting that is neither in the file nor given is assumed, with a warning.
    """
    if isinstance(tokenizer, (str, Path)) and not Path(tokenizer).expanduser().exists():
        raise FileNotFoundError(f"tokenizer={tokenizer}: there is no such file or folder")
    checkpoint = read(Path(path).expanduser(), architecture)
    warn_of_assumptions(checkpoint, Path(path))
    model = build_model(checkpoint)
    heads = {key.partition(".")[0] for key in checkpoint.heads} | TASKS_WITHOUT_HEADS
    nodes = {name: node for name, node in (checkpoint.config.get("objectives") or {}).items() if name in heads}
    objectives = nn.ModuleDict(build(nodes, allow=ALLOWED_IN_FILES))
    load_strictly(objectives, checkpoint.heads)
    momentum = None
    if checkpoint.momentum:
        momentum = MomentumCopy(model, dict(objectives.items()))
        load_strictly(momentum, checkpoint.momentum)
        momentum.eval()
    checkpoint.state = checkpoint.heads = checkpoint.momentum = {}  # the modules have their own copies
    node = (checkpoint.config.get("transform") or {}).get("eval")
    return Predictor(
        model=model,
        objectives=objectives.eval(),
        nodes=nodes,
        momentum=momentum,
        tokenizer=lambda: find_tokenizer(checkpoint, model, tokenizer),
        transform=build(node, allow=ALLOWED_IN_FILES) if node else None,
    )


class Predictor:
    """Works on the device that `.model` is on, in evaluation mode, without gradients. What is compared (embeddings, logits,
    probabilities) is float32, also within autocast; a UserError where it is not finite.

    objectives: those that have parameters, and vqa and captioning; `nodes`: the configs they
    were built from.  momentum: the momentum copy, where the file has one.  transform: picture → uint8 pixels.
    batch_size: inputs embedded at a time.
    """

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        objectives: nn.ModuleDict,
        nodes: dict[str, dict[str, Any]] | None = None,
        momentum: MomentumCopy | None = None,
        tokenizer: Tokenizer | Callable[[], Tokenizer] | None = None,
        transform: Transform | None = None,
        batch_size: int = 64,
    ) -> None:
        self.model = model
        self.objectives = objectives
        self.nodes = nodes or {}
        self.momentum = momentum
        self.transform = transform
        self.batch_size = batch_size
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where the checkpoint came without a vocabulary."""
        try:
            return self.require_tokenizer()
        except FileNotFoundError:
            return None

    def require_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise FileNotFoundError("this predictor has no tokenizer: give tokenizer=PATH to vlp.load")
        if not isinstance(self._tokenizer, Tokenizer):
            self._tokenizer = self._tokenizer()
        return self._tokenizer

    def tokenizer_of_texts(self) -> Tokenizer | None:
        """As `require_tokenizer`; None of a model that neither reads nor writes texts."""
        has_texts = self.model.text is not None or self.model.decoder is not None
        return self.require_tokenizer() if has_texts else None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Picture]) -> Float[Tensor, "n e"]:
        """Of unit length; equal pictures have equal embeddings."""
        return self._embed_batches(
            images, "images", self.load_pixels, lambda x: self.model.embed_image(self.model.encode_image(x))
        )

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        """Of unit length; texts of equal tokens have equal embeddings."""
        tokenizer = self.require_tokenizer()

        def tokens(batch: list[str]) -> Text:
            return tokenizer(batch).to(self.device)

        return self._embed_batches(texts, "texts", tokens, lambda x: self.model.embed_text(self.model.encode_text(x)))

    def _embed_batches(
        self, inputs: Sequence[Any], name: str, read: Callable[[list[Any]], Any], embed: Callable[[Any], Tensor]
    ) -> Float[Tensor, "n e"]:
        keys: list[bytes] = []
        parts = []
        for batch in self.batches(inputs, name):
            keys += content_keys(content := read(batch))
            parts.append(embed(content))
        return require_finite(torch.cat(parts), "embeddings")[first_equal_positions(keys).to(self.device)]

    @torch.inference_mode()
    def similarity(self, images: Sequence[Picture], texts: Sequence[str]) -> Float[Tensor, "n m"]:
        """Logits: cosines with the model's temperature and bias. Equal pictures and equal texts have equal logits."""
        image, image_row = self.embed_images(images).unique(dim=0, return_inverse=True)
        text, text_row = self.embed_texts(texts).unique(dim=0, return_inverse=True)
        return require_finite(self.model.similarity(image, text), "similarities")[image_row][:, text_row]

    @torch.inference_mode()
    def classify(
        self,
        images: Sequence[Picture],
        labels: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
    ) -> list[dict[str, float]]:
        """The probability of each label, for each image.

        labels: None = the classes of the checkpoint's own classifier, trained by the task classification, probe or prompts.
        templates: prompts with {} where the label goes, whose embeddings are averaged; None = "a photo of a {}.".
        """
        return classify(self, images, labels, templates)

    @torch.inference_mode()
    def match(self, images: Sequence[Picture], texts: Sequence[str]) -> Float[Tensor, " n"]:
        """The probability that text i belongs to image i, by the head of image-text matching."""
        objective = self._require_head("itm")
        parts = []
        for pictures, words in self.pair_batches(images, texts, "texts"):
            text = self.model.encode_text(self.require_tokenizer()(words).to(self.device))
            memory = self.model.project_memory(self.model.encode_image(self.load_pixels(pictures)))
            logits = require_finite(objective.logits(self.model, text, memory), "logits of a match")
            parts.append(logits.softmax(1)[:, 1])
        return torch.cat(parts)

    @torch.inference_mode()
    def fill_mask(
        self, images: Sequence[Picture], texts: Sequence[str], count: int = 5
    ) -> list[list[tuple[str, float]]]:
        """For each [MASK] of each text, in order, the `count` most probable tokens with their probabilities, one list after
        the other."""
        tokenizer, objective = self.require_tokenizer(), self._require_head("mlm")
        results: list[list[tuple[str, float]]] = []
        for pictures, words in self.pair_batches(images, texts, "texts"):
            text, chosen = tokenizer.encode_masked(words)
            text, chosen = text.to(self.device), chosen.to(self.device)
            memory = self.model.project_memory(self.model.encode_image(self.load_pixels(pictures)))
            logits = require_finite(objective.logits(self.model, text, memory, chosen), "logits of the masked words")
            best = logits.topk(count).indices  # not of probabilities: those near 0 are equal
            values = logits.softmax(1).gather(1, best).tolist()
            tokens = [[tokenizer.decode_with_specials([index]) for index in row] for row in best.tolist()]
            rows = [list(zip(*row, strict=True)) for row in zip(tokens, values, strict=True)]
            ends = chosen.sum(1).cumsum(0).tolist()
            results += [list(chain(*rows[start:end])) for start, end in zip([0, *ends], ends, strict=False)]
        return results

    fill = RenamedMethod("fill_mask")

    @torch.inference_mode()
    def answer(
        self, images: Sequence[Picture], questions: Sequence[str], answers: Sequence[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """For question i about image i the best answers with their probabilities, best first.

        answers: those to choose from, for a decoder that ranks them; none = the checkpoint's own.
        """
        tokenizer, task = self.require_tokenizer(), self._require_head("vqa")
        results: list[list[tuple[str, float]]] = []
        for pictures, words in self.pair_batches(images, questions, "questions"):
            text = tokenizer(words, kind="question").to(self.device)
            results += task.answer(self.model, tokenizer, self.load_pixels(pictures), text, names=answers)
        return results

    @torch.inference_mode()
    def caption(self, images: Sequence[Picture]) -> list[str]:
        """One for each image, written as the checkpoint's captioning task says (by default beam search with 3 beams)."""
        tokenizer = self.require_tokenizer()
        task: Any = self.objectives["captioning"] if "captioning" in self.objectives else Captioning()
        self.model.part("decoder")  # an error that names it where there is none
        batches = self.batches(images, "images")
        return [text for batch in batches for text in task.caption(self.model, tokenizer, self.load_pixels(batch))]

    @torch.inference_mode()
    def translate(self, texts: Sequence[str], images: Sequence[Picture | None] | None = None) -> list[str]:
        """Of each text, with the image that it describes where there is one, by beam search as the checkpoint's translation task
        says.  images: one for each text, None = the text has none; None = no text has."""
        return translate(self, texts, images)

    @torch.inference_mode()
    def detect(
        self, images: Sequence[Picture], labels: Sequence[str] | None = None, *, threshold: float | None = None
    ) -> list[list[dict[str, Any]]]:
        """For each image what is more probable than `threshold` (None = the checkpoint's), the most probable first: `box` (left,
        top, right, bottom in pixels of the upright photo), `label`, `score`, and `mask` [height width] of a detector with masks.

        labels: what to look for, by a detector that scores texts; None = the classes that it was trained on."""
        return detect(self, images, labels, threshold=threshold)

    @torch.inference_mode()
    def ground(self, images: Sequence[Picture], phrases: Sequence[str], *, heat: bool = False) -> list[dict[str, Any]]:
        """For phrase i about image i: `box` (left, top, right, bottom in pixels of the upright photo) and `score`: the probability
        of a match by itm, a detector's own, or None. By the checkpoint's grounding task, or else by the heat of itm.

        heat: also `heat` [rows columns], where the task makes it (mode map); None elsewhere."""
        return ground(self, images, phrases, heat=heat)

    @torch.inference_mode()
    def segment(
        self, images: Sequence[Picture], labels: Sequence[str] | None = None, *, task: str | None = None
    ) -> list[dict[str, Any]]:
        """For each image `classes` [height width], the index of each pixel's class among `names`, at the size of the upright photo;
        of a panoptic head also `ids` [height width] and `segments`, with `id` and `label` (255 and 0 are pixels of none).

        labels: what to look for, by a head that scores texts; None = the classes that it was trained on.  task: segmentation or
        panoptic, of a checkpoint with both."""
        return segment(self, images, labels, task=task)

    def _require_head(self, name: str) -> Any:
        if name not in self.objectives:
            has = ", ".join(self.objectives) or "none"
            raise UserError(f"this checkpoint has no head for {name}; its heads are: {has}")
        return self.objectives[name]

    def load_pixels(self, images: Sequence[Picture]) -> Image:
        self.model.part("vision")  # an error that names it where there is none
        transform = self.require_transform()
        return pad_images([transform(open_picture(image)) for image in images]).to(self.device)

    def require_transform(self) -> Transform:
        if self.transform is None:
            raise UserError("this checkpoint's image preprocessing is not one that vlp knows: set predictor.transform")
        return self.transform

    def pair_batches(
        self, images: Sequence[Picture], texts: Sequence[str], name: str
    ) -> Iterator[tuple[list[Any], list[str]]]:
        """Batches of images and their texts.  name: of the texts, for messages."""
        require_pairs(images, texts, name)
        return zip(self.batches(images, "images"), self.batches(texts, name), strict=True)

    def batches(self, inputs: Sequence[Any], name: str) -> Iterator[list[Any]]:
        require_list(inputs, name)
        for start in range(0, len(inputs), self.batch_size):
            yield list(inputs[start : start + self.batch_size])
