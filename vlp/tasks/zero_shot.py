"""Zero-shot classification (Radford et al. 2021, arXiv 2103.00020): a class is the mean of its prompts' embeddings.

The embedding of each prompt has unit length, their mean over templates is normalised again, and the class with the highest
cosine is predicted; tied classes share the credit. Images with one class give top-1, top-5 and the mean over classes; images
with several categories (COCO) give mean average precision, and top-1 = the best class is one of the image's categories.
Both means are over the classes that occur, whose number is the figure `classes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from vlp.metrics.classification import accuracy_figures, label_ties, multi_label_figures
from vlp.metrics.recall import exact_cosines
from vlp.models.classified_images import Classified, ClassifiedImages, best_classes, has_classes
from vlp.models.gallery import scoring_device
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.tokenizers.base import Tokenizer

IMAGES_PER_STEP = 4096  # that are scored at a time
OPENAI_TEMPLATES = Path(__file__).parent / "templates" / "openai_imagenet.txt"  # openai/CLIP, the ImageNet notebook


class ZeroShot(Task):
    """templates: prompts with `{}` for the class name, as a list or a text file with one in each line; None = OpenAI's 80.

    prompts: how many are embedded at a time.
    """

    requires = ("image",)
    needs = ("vision", "text", "projection")
    uses = ("image_embed",)

    def __init__(
        self, *, templates: Sequence[str] | str | Path | None = None, prompts: int = 1024, weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(weight=weight, sources=sources)
        self.templates = read_templates(templates)
        self.prompts = prompts
        self.class_names: tuple[str, ...] = ()
        self._class_embeds: Tensor | None = None

    def applies(self, batch: Batch, source: str) -> bool:
        return has_classes(batch) and super().applies(batch, source)

    def reset(self) -> None:
        self._images = ClassifiedImages(["embed"])

    @torch.no_grad()
    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        """Embeds the classes of `data.class_names` with the current weights."""
        self.class_names = tuple(getattr(data, "class_names", None) or ())
        if self.class_names:
            self._class_embeds = embed_classes(model, tokenizer, self.class_names, self.templates, self.prompts)
        else:
            self._class_embeds = None

    def _require_classes(self) -> Float[Tensor, "a e"]:
        if self._class_embeds is None:
            raise UserError("zero_shot has no class names: the data module must set class_names")
        return self._class_embeds

    def scores(self, image_embed: Float[Tensor, "b e"]) -> Float[Tensor, "b a"]:
        """Cosines with the classes; those of equal prompts are equal."""
        return exact_cosines(image_embed, self._require_classes().to(image_embed.device))

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if features.image_embed is None:
            raise UserError("zero_shot needs image_embed in the features of each batch")
        self._require_classes()
        self._images.add({"embed": features.image_embed}, batch)

    def left_out(self) -> int:
        return self._images.unknown()

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        found = self._images.gather(scoring_device(model), len(self.class_names), task="zero_shot")
        return {**zero_shot_figures(found, self._require_classes())}

    def lacking(self, data: Any) -> str | None:
        return None if data.class_names else "the names of the classes: give --label NAME for each"

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The five best classes of each image with their cosines."""
        if batch.image is None:
            raise UserError("zero_shot needs batches with images")
        scores = self.scores(model.embed_image(model.encode_image(batch.image)))
        return best_classes(batch, scores, self.class_names)


def zero_shot_figures(images: Classified, class_embeds: Float[Tensor, "a e"]) -> dict[str, float]:
    """Of the joint embeddings, by cosine; the scores of `IMAGES_PER_STEP` images at a time."""
    embeds = images.features["embed"]
    classes = class_embeds.to(embeds.device)
    if images.categories is not None:
        return multi_label_figures(exact_cosines(embeds, classes).cpu(), images.categories)
    label = require(images.label)
    parts = zip(embeds.split(IMAGES_PER_STEP), label.split(IMAGES_PER_STEP), strict=True)
    ties = torch.cat([label_ties(exact_cosines(rows, classes).cpu(), of_rows) for rows, of_rows in parts])
    return accuracy_figures(ties, label)


def embed_classes(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: Sequence[str],
    prompts: int = 1024,
) -> Float[Tensor, "a e"]:
    """Unit-length embeddings of the classes, in float32.  prompts: embedded at a time.  Raises UserError where one is not
    finite."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    distinct = list(dict.fromkeys(names))  # so that classes of one name ("crane", twice in ImageNet) are equal
    texts = [template.replace("{}", name) for name in distinct for template in templates]
    embeds = [
        model.embed_text(model.encode_text(tokenizer(texts[start : start + prompts]).to(device))).float()
        for start in range(0, len(texts), prompts)
    ]
    by_class = rearrange(require_finite(torch.cat(embeds), "embeddings"), "(a k) e -> a k e", k=len(templates))
    classes = F.normalize(reduce(by_class, "a k e -> a e", "mean"), dim=-1)
    return classes[[distinct.index(name) for name in names]]


def read_templates(templates: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    if templates is None or isinstance(templates, (str, Path)):
        path = Path(templates or OPENAI_TEMPLATES).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"no templates at {path}: give a text file with one in each line, or a list of them"
            )
        templates = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise UserError(f"each template needs {{}} for the class name: {wrong[0] if wrong else 'none given'!r}")
    return tuple(templates)
