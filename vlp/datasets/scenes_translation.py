"""Captions of generated scenes with their German translations, drawn when they are first needed; the colour words of the English
may be masked, so that only the picture tells them.

The German is written by rule from the same records as the English (vlp/scenes/german.py), which are made again from the seed; the
folder is that of data=scenes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlp.data.colour_words import mask_colours
from vlp.data.issues import DataError
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.scenes import draw_scenes, scene_folder
from vlp.scenes.generate import FIRST_ID
from vlp.scenes.german import translate
from vlp.scenes.grammar import write_captions
from vlp.scenes.picture import SPLITS
from vlp.scenes.scene import sample_scene
from vlp.structures import Sample
from vlp.system.errors import UserError

CAPTIONS = 5  # of a picture


class SceneTranslations(Karpathy):
    """images, size, scene_seed: see Scenes.  sentences: how many captions of each picture are translated, the first ones; each is a
    sample, the English its question and the German its answer.  masked_colours: whether each colour word of the English is replaced
    by [v].  with_captions: whether a sample also has its English sentence, with all its words, as a caption, for other objectives.
    """

    source_language, target_language = "en", "de"

    def __init__(
        self,
        *,
        images: Mapping[str, int],
        size: int = 64,
        scene_seed: int = 0,
        sentences: int = 2,
        masked_colours: bool = True,
        with_captions: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(annotations="dataset_coco.json", images=".", restval=True, **loading)
        if isinstance(sentences, bool) or not 1 <= sentences <= CAPTIONS:
            raise UserError(f"data.sentences={sentences}: give a number from 1 to {CAPTIONS}")
        self.sentences, self.masked_colours, self.with_captions = sentences, masked_colours, with_captions
        self.drawn: dict[str, Any] = {"images": dict(images), "size": size, "scene_seed": scene_seed}
        self.root = scene_folder(self.root, **self.drawn)

    def prepare_data(self) -> None:
        draw_scenes(self.root, **self.drawn)

    def samples(self, split: str) -> list[Sample]:
        return [sample for picture in super().samples(split) for sample in self._translated(picture)]

    def _translated(self, picture: Sample) -> Iterator[Sample]:
        part = Path(str(picture.image)).parent.name
        index = picture.id - FIRST_ID[False] - SPLITS.index(part) * 10_000_000
        seed = self.drawn["scene_seed"]
        scene = sample_scene(seed=seed, split=part, index=index)
        captions = write_captions(random.Random(f"{seed}/{part}/{index}/words"), scene)
        if tuple(map(str, captions)) != picture.captions:
            message = (
                f"{picture.image}: has captions of another version of vlp; delete {self.root}, and it is drawn again"
            )
            raise DataError("other captions", message)
        for number, caption in enumerate(captions[: self.sentences]):
            english = str(caption)
            yield Sample(
                id=picture.id,
                sample=picture.id * CAPTIONS + number,
                image=picture.image,
                captions=(english,) if self.with_captions else (),
                question=mask_colours(english, "en") if self.masked_colours else english,
                answers=(translate(caption),),
            )
