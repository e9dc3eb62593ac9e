"""Generated scenes as the official files of COCO, Karpathy, VQA v2, Visual Genome (v1.2), Flickr8k and SugarCrepe.

Keys, types and nesting are those of the real files, so the readers of real data read them. What differs: masks are
run-length codes (exact, where polygons would be nearly so), image URLs are paths relative to the root, Visual Genome's
image_id equals its coco_id, and file names in Flickr's lists start with the split's folder.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

from vlp.scenes.blanks import SceneBlank
from vlp.scenes.grammar import Caption, Mention
from vlp.scenes.picture import Picture
from vlp.scenes.questions import Question
from vlp.scenes.scene import COLOURS, SHAPES, Thing, relations

LICENCE = {"url": "https://creativecommons.org/publicdomain/zero/1.0/", "id": 1, "name": "CC0 1.0 Universal"}
VERSION = "1.3"
PARTS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}  # what each split of a data set is made of
FLICKR_LISTS = {"train": "train", "val": "dev", "test": "test"}
NAMING_ATTRIBUTES = ("size", "texture", "colour", "shape")  # in the order in which a phrase says them
PREDICATES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
CATEGORY_IDS = {shape: index + 1 for index, shape in enumerate(SHAPES)}
CATEGORIES = [{"supercategory": "shape", "id": number, "name": shape} for shape, number in CATEGORY_IDS.items()]
PAIR_IDS = {
    (colour, shape): 10 * number + index
    for shape, number in CATEGORY_IDS.items()
    for index, colour in enumerate(COLOURS, start=1)
}
PAIR_CATEGORIES = [
    {"supercategory": shape, "id": number, "name": f"{colour} {shape}"} for (colour, shape), number in PAIR_IDS.items()
]


@dataclass(frozen=True, kw_only=True)
class Described(Picture):
    captions: tuple[Caption, ...]


@dataclass(frozen=True, kw_only=True)
class ImageRecord(Described):
    """Everything written about one image of the default set, whose annotations are its things in their order."""

    swapped: Caption
    blanks: tuple[tuple[SceneBlank, ...], ...]  # of each caption
    questions: tuple[Question, ...]


def dataset_info(what: str) -> dict[str, Any]:
    return {
        "description": f"vlp scenes: {what}", "url": "", "version": VERSION, "year": 2026, "contributor": "vlp",
        "date_created": "2026/01/01",
    }  # fmt: skip


def coco_images(records: Sequence[Picture]) -> list[dict[str, Any]]:
    return [
        {
            "license": 1, "file_name": r.file, "coco_url": f"{r.split}/{r.file}", "height": r.size, "width": r.size,
            "date_captured": "2026-01-01 00:00:00", "flickr_url": "", "id": r.id,
        }
        for r in records
    ]  # fmt: skip


def coco_captions(records: Sequence[Described]) -> dict[str, Any]:
    annotations = [
        {"image_id": r.id, "id": r.id * 100 + i, "caption": str(text)}
        for r in records
        for i, text in enumerate(r.captions)
    ]
    return {
        "info": dataset_info("captions"),
        "licenses": [LICENCE],
        "images": coco_images(records),
        "annotations": annotations,
    }


def coco_instances(records: Sequence[Picture], *, pairs: bool = False) -> dict[str, Any]:
    """pairs: whether the categories are pairs of a colour and a shape, such as "red star", in place of shapes."""
    annotations = [
        {
            "segmentation": r.masks[i], "area": float(r.areas[i]), "iscrowd": int(len(members) > 1), "image_id": r.id,
            "bbox": [float(edge) for edge in r.boxes[i]],
            "category_id": PAIR_IDS[r.colour(i), r.shape(i)] if pairs else CATEGORY_IDS[r.shape(i)], "id": r.id * 100 + i,
        }
        for r in records
        for i, members in enumerate(r.members)
    ]  # fmt: skip
    head = {"info": dataset_info("instances"), "licenses": [LICENCE], "images": coco_images(records)}
    return head | {"annotations": annotations, "categories": PAIR_CATEGORIES if pairs else CATEGORIES}


def karpathy(records: Sequence[Described]) -> dict[str, Any]:
    images = []
    for imgid, r in enumerate(records):
        sentences = [
            {"tokens": str(text).replace(",", "").split(), "raw": str(text), "imgid": imgid, "sentid": r.id * 100 + i}
            for i, text in enumerate(r.captions)
        ]
        image = {"filepath": r.split, "sentids": [s["sentid"] for s in sentences], "filename": r.file, "imgid": imgid}
        images.append(image | {"split": r.split, "sentences": sentences, "cocoid": r.id})
    return {"images": images, "dataset": "coco"}


def vqa(records: Sequence[ImageRecord], split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """VQA v2's questions file and annotations file. All ten annotators agree, for every answer is certain."""
    questions, annotations = [], []
    for r in records:
        for i, question in enumerate(r.questions):
            name = {"image_id": r.id, "question_id": r.id * 1000 + i}
            answers = [{"answer": question.answer, "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
            questions.append(name | {"question": question.text})
            annotations.append(
                name
                | {"question_type": question.kind, "multiple_choice_answer": question.answer, "answers": answers}
                | {"answer_type": question.answer_type}
            )
    head = {
        "info": dataset_info("questions"), "license": {key: LICENCE[key] for key in ("url", "name")}, "data_type": "mscoco",
        "data_subtype": split,
    }  # fmt: skip
    return head | {"task_type": "Open-Ended", "questions": questions}, head | {"annotations": annotations}


def visual_genome(records: Sequence[ImageRecord]) -> dict[str, list[Any]]:
    """The six files of Visual Genome v1.2, by name."""
    return {
        "image_data": [
            {
                "width": r.size,
                "url": f"{r.split}/{r.file}",
                "height": r.size,
                "image_id": r.id,
                "coco_id": r.id,
                "flickr_id": None,
            }
            for r in records
        ],
        "objects": [{"image_id": r.id, "objects": [genome_object(r, t) for t in r.scene.things]} for r in records],
        "attributes": [
            {
                "image_id": r.id,
                "attributes": [
                    genome_object(r, t) | {"attributes": [t.colour, t.texture, t.size]} for t in r.scene.things
                ],
            }
            for r in records
        ],
        "relationships": [{"image_id": r.id, "relationships": genome_relationships(r)} for r in records],
        "region_descriptions": [{"id": r.id, "regions": genome_regions(r)} for r in records],
        "question_answers": [{"id": r.id, "qas": genome_questions(r)} for r in records],
    }


def genome_object(r: ImageRecord, thing: Thing) -> dict[str, Any]:
    index = r.scene.things.index(thing)
    x, y, w, h = r.boxes[index]
    return {"synsets": [], "h": h, "object_id": r.id * 100 + index, "names": [thing.shape], "w": w, "y": y, "x": x}


def genome_relationships(r: ImageRecord) -> list[dict[str, Any]]:
    """Every relation that holds between two things, both ways."""
    found: list[dict[str, Any]] = []
    for first in r.scene.things:
        for second in r.scene.things:
            if first is second:
                continue
            ends = {}
            for role, thing in (("subject", first), ("object", second)):
                entry = genome_object(r, thing)
                ends[role] = {"name": entry.pop("names")[0]} | entry
            for relation in relations([first], [second]):
                relationship = {
                    "predicate": PREDICATES[relation],
                    "relationship_id": r.id * 100 + len(found),
                    "synsets": [],
                }
                found.append(relationship | ends)
    return found


def genome_regions(r: ImageRecord) -> list[dict[str, Any]]:
    """One region for each thing, and one for each relation of its first thing."""
    regions = []
    phrases = [(full_name(thing), r.boxes[i]) for i, thing in enumerate(r.scene.things)]
    first = r.scene.things[0]
    for i, second in enumerate(r.scene.things[1:], start=1):
        boxes = (r.boxes[0], r.boxes[i])
        left, top = (min(box[axis] for box in boxes) for axis in (0, 1))
        right, bottom = (max(box[axis] + box[axis + 2] for box in boxes) for axis in (0, 1))
        relation = PREDICATES[relations([first], [second])[0]]
        phrases.append((f"{full_name(first)} {relation} {full_name(second)}", [left, top, right - left, bottom - top]))
    for i, (phrase, (x, y, w, h)) in enumerate(phrases):
        region = {
            "region_id": r.id * 100 + i,
            "width": w,
            "height": h,
            "image_id": r.id,
            "phrase": phrase,
            "y": y,
            "x": x,
        }
        regions.append(region)
    return regions


def full_name(thing: Thing) -> str:
    wordings = {name: getattr(thing, name) for name in NAMING_ATTRIBUTES}
    return str(Mention(number=1, attributes=wordings, words=wordings))


def genome_questions(r: ImageRecord) -> list[dict[str, Any]]:
    """Answers as Visual Genome writes them: a capital and a full stop. It has no yes/no questions."""
    return [
        {
            "a_objects": [], "question": q.text, "image_id": r.id, "qa_id": r.id * 1000 + i,
            "answer": f"{q.answer.capitalize()}.", "q_objects": [],
        }
        for i, q in enumerate(r.questions)
        if q.answer_type != "yes/no"
    ]  # fmt: skip


def flickr(records: Sequence[Described]) -> dict[str, str]:
    """Flickr8k's caption file and its lists; restval is listed as training, as it has no list of its own."""
    lines = [f"{r.split}/{r.file}#{i}\t{text}\n" for r in records for i, text in enumerate(r.captions)]
    files = {"Flickr8k.token.txt": "".join(lines)}
    for split, name in FLICKR_LISTS.items():
        files[f"Flickr_8k.{name}Images.txt"] = "".join(
            f"{r.split}/{r.file}\n" for r in records if r.split in PARTS[split]
        )
    return files


def sugarcrepe(records: Sequence[ImageRecord]) -> dict[str, dict[str, str]]:
    """Each image's first caption beside the same with the colours of two things exchanged, which is false."""
    return {
        str(i): {"filename": r.file, "caption": str(r.captions[0]), "negative_caption": str(r.swapped)}
        for i, r in enumerate(records)
    }


def list_things(records: Sequence[Picture]) -> dict[str, list[dict[str, str]]]:
    """By file name, what Visual Genome's attributes say in the default set: shape, colour and texture of all things, in drawing
    order. A layout of our own."""
    names = ("shape", "colour", "texture")
    return {r.file: [{name: getattr(thing, name) for name in names} for thing in r.scene.things] for r in records}


def cloze(records: Sequence[ImageRecord]) -> dict[str, list[list[dict[str, Any]]]]:
    """By file name, for each caption the words that the picture decides. A layout of our own, as no data set has such."""
    return {r.file: [[vars(blank) for blank in of_caption] for of_caption in r.blanks] for r in records}


def also_true(records: Sequence[Described]) -> dict[str, list[list[int]]]:
    """By file name, for each caption the ids of the other pictures among these that it is true of: no negatives for it."""
    showing: dict[tuple[tuple[tuple[str, str], ...], int], set[int]] = defaultdict(
        set
    )  # pictures by what they show how often
    for place, r in enumerate(records):
        for key, number in Counter(chain.from_iterable(map(_namings, r.scene.things))).items():
            showing[key, number].add(place)

    def others(own: int, caption: Caption) -> list[int]:
        named = (showing[tuple(sorted(m.attributes.items())), m.number] for m in caption.mentions)
        found = set(range(len(records))).intersection(*named) - {own}
        return [records[place].id for place in sorted(found) if caption.holds(records[place].scene)]

    return {r.file: [others(place, caption) for caption in r.captions] for place, r in enumerate(records)}


def _namings(thing: Thing) -> Iterator[tuple[tuple[str, str], ...]]:
    """Every set of attributes that a caption may name it by; the shape is always said."""
    for count in range(4):
        for names in combinations(("colour", "size", "texture"), count):
            yield tuple((name, getattr(thing, name)) for name in sorted(("shape", *names)))
