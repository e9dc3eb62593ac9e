"""Generated scenes in RefCOCO's files: phrases that name one thing each, and the instances that they refer to.

    refcoco/refs(unc).p       a pickle (protocol 2, of lists, dictionaries, texts and numbers alone) of [{"ref_id", "ann_id",
                              "category_id", "image_id", "file_name", "split", "sent_ids", "sentences": [{"tokens", "raw",
                              "sent", "sent_id"}, ..]}, ..]
    refcoco/instances.json    COCO's, of all splits; file names begin with the split's folder

Where RefCOCO's testA has people and testB the rest, testA has circles and squares here; both are about the same pictures.
train+restval are its train. Yu et al., "Modeling Context in Referring Expressions", ECCV 2016; github.com/lichengunc/refer.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Sequence
from typing import Any

from vlp.scenes.formats import CATEGORY_IDS, PARTS, coco_images, coco_instances
from vlp.scenes.picture import Picture
from vlp.scenes.references import write_references

TEST_A = ("circle", "square")


def encode_refcoco(pictures: Sequence[Picture], *, seed: int) -> dict[str, bytes]:
    """The content of both files by name.  seed: of the scenes; an image's phrases depend on it and the image's id alone."""
    instances = coco_instances(pictures)
    images = [
        image | {"file_name": f"{picture.split}/{picture.file}"}
        for image, picture in zip(coco_images(pictures), pictures, strict=True)
    ]
    # through JSON, so that no two values are one object: a pickle would write the second as a reference to the first
    refs = json.loads(json.dumps(list_refs(pictures, seed=seed)))
    return {
        "refcoco/refs(unc).p": pickle.dumps(refs, protocol=2),
        "refcoco/instances.json": json.dumps(instances | {"images": images}).encode(),
    }


def list_refs(pictures: Sequence[Picture], *, seed: int) -> list[dict[str, Any]]:
    """One for each thing that a phrase can name; numbered through, and so are the sentences of all."""
    refs: list[dict[str, Any]] = []
    sentences = 0
    for picture in pictures:
        rng = random.Random(f"{seed}/{picture.id}/references")
        for annotation, members in enumerate(picture.members):
            if len(members) > 1:  # a crowd
                continue
            thing = picture.scene.things[members[0]]
            texts = [reference.text for reference in write_references(rng, picture.scene, thing)]
            if not texts:
                continue
            numbers = list(range(sentences, sentences + len(texts)))
            sentences += len(texts)
            refs.append(
                {
                    "ref_id": len(refs), "ann_id": picture.id * 100 + annotation, "category_id": CATEGORY_IDS[thing.shape],
                    "image_id": picture.id, "file_name": f"{picture.split}/{picture.file}",
                    "split": _split(picture.split, thing.shape), "sent_ids": numbers,
                    "sentences": [
                        {"tokens": text.split(), "raw": text, "sent": text, "sent_id": number}
                        for number, text in zip(numbers, texts, strict=True)
                    ],
                }
            )  # fmt: skip
    return refs


def _split(folder: str, shape: str) -> str:
    split = next(name for name, folders in PARTS.items() if folder in folders)
    return split if split != "test" else "testA" if shape in TEST_A else "testB"
