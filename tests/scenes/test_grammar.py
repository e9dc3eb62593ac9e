"""Every caption is true and every swapped one false, by a reader of English that knows only the written files."""

from __future__ import annotations

import re
from pathlib import Path

from tests.scenes.conftest import Seen, load

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
SIZES = {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large", "huge": "large"}
TEXTURES = {"plain": "plain", "solid": "plain", "striped": "striped", "stripy": "striped", "with stripes": "striped"}
TEXTURES |= {"dotted": "dotted", "spotted": "dotted", "with dots": "dotted"}
TEXTURES |= {"checked": "checked", "checkered": "checked", "with checks": "checked"}
COLOURS = {name: name for name in ("red", "orange", "yellow", "green", "blue", "purple", "pink")} | {"violet": "purple"}
SHAPES = {
    name: name for name in ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "arrow")
}
SHAPES |= {"disc": "circle", "box": "square", "hoop": "ring", "moon": "crescent"}
SHAPES |= {f"{word}es" if word in ("cross", "box") else f"{word}s": name for word, name in SHAPES.items()}
RELATIONS = {
    "to the left of": "left", "left of": "left", "to the right of": "right", "right of": "right", "above": "above",
    "over": "above", "higher up than": "above", "below": "below", "under": "below", "lower down than": "below",
}  # fmt: skip


def either(words: dict[str, str] | dict[str, int]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


ENDING = "with (?:stripes|dots|checks)"
PHRASE = (
    rf"\b({either(NUMBERS)})(?: ({either(SIZES)}))?(?: ({either(TEXTURES)}))?(?: ({either(COLOURS)}))? "
    rf"({either(SHAPES)})\b(?: ({ENDING}))?"
)
PLAIN = re.sub(r"\((?!\?)", "(?:", PHRASE)
RELATION = either(RELATIONS)


def found(phrase: str, things: list[Seen]) -> list[Seen]:
    """The things that a noun phrase speaks of."""
    match = re.fullmatch(PHRASE, phrase)
    assert match, phrase
    _, size, texture, colour, shape, ending = match.groups()
    texture = texture or ending
    return [
        t
        for t in things
        if t.shape == SHAPES[shape]
        and (not size or t.size == SIZES[size])
        and (not texture or t.texture == TEXTURES[texture])
        and (not colour or t.colour == COLOURS[colour])
    ]


def related(name: str, first: list[Seen], second: list[Seen]) -> bool:
    axis = 0 if name in ("left", "right") else 1
    before, after = (first, second) if name in ("left", "above") else (second, first)
    return bool(first and second) and max(t.box[axis + 2] for t in before) <= min(t.box[axis] for t in after)


def lies(place: str, things: list[Seen]) -> bool:
    centres = [((t.box[0] + t.box[2]) / 2, (t.box[1] + t.box[3]) / 2) for t in things]
    tests = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
    return bool(things) and all(
        sign * (centre[axis] - 32) > 0 for word, (axis, sign) in tests.items() if word in place for centre in centres
    )


def claims(text: str, things: list[Seen], ground: str) -> list[bool]:
    """Whether each statement that is found in a caption holds."""
    truths = []
    for phrase in re.finditer(PHRASE, text):
        truths.append(len(found(phrase[0], things)) == NUMBERS[phrase[1]])
    for a, relation, b in re.findall(rf"({PLAIN})(?: is| are| sits?)? ({RELATION}) ({PLAIN})", text):
        truths.append(related(RELATIONS[relation], found(a, things), found(b, things)))
    for b, a, relation in re.findall(rf"({PLAIN}) with ({PLAIN}) ({RELATION}) (?:it|them)", text):
        truths.append(related(RELATIONS[relation], found(a, things), found(b, things)))
    places = r"in the (?:top|bottom) (?:left|right) corner|at the (?:top|bottom)|on the (?:left|right)"
    for a, place in re.findall(rf"({PLAIN}) ({places})", text):
        truths.append(lies(place, found(a, things)))
    for place, a in re.findall(rf"({places}) (?:is|are) ({PLAIN})", text):
        truths.append(lies(place, found(a, things)))
    for noun, colour in re.findall(rf"the ({either(SHAPES)}) (?:is|are) ({either(COLOURS)})", text):
        of_shape = [t for t in things if t.shape == SHAPES[noun]]
        truths.append(bool(of_shape) and all(t.colour == COLOURS[colour] for t in of_shape))
    for number in re.findall(r"(two|three|four) (?:shapes|objects)", text):
        truths.append(len(things) == NUMBERS[number])
    for background in re.findall(r"a (\w+) (?:background|backdrop)", text):
        truths.append(background == ground)
    return truths


def test_every_caption_is_true(root: Path, seen: dict[int, list[Seen]], grounds: dict[int, str]) -> None:
    forms = set()
    for image in load(root, "dataset_coco.json")["images"]:
        for sentence in image["sentences"]:
            truths = claims(sentence["raw"], seen[image["cocoid"]], grounds[image["cocoid"]])
            assert len(truths) >= 2, sentence["raw"]
            assert all(truths), (sentence["raw"], seen[image["cocoid"]])
            assert sentence["raw"] == sentence["raw"].lower()
            assert 6 <= len(sentence["tokens"]) <= 24, sentence["raw"]
            forms.add(re.sub(PHRASE, "NP", sentence["raw"]))
    assert len(forms) > 60


def test_captions_of_an_image_differ(root: Path) -> None:
    images = load(root, "dataset_coco.json")["images"]
    assert sum(len({s["raw"] for s in image["sentences"]}) == 5 for image in images) > 0.95 * len(images)


def test_every_swapped_caption_has_the_same_words_and_is_false(
    root: Path, seen: dict[int, list[Seen]], grounds: dict[int, str]
) -> None:
    for split, offset in (("val", 20_000_000), ("test", 30_000_000)):
        pairs = load(root, f"sugarcrepe/swap_{split}.json")
        assert len(pairs) == 20
        for pair in pairs.values():
            image = int(pair["filename"].split("_")[-1].split(".")[0])
            assert offset < image < offset + 10_000_000
            right, wrong = pair["caption"], pair["negative_caption"]
            assert all(claims(right, seen[image], grounds[image]))
            assert not all(claims(wrong, seen[image], grounds[image])), wrong
            articles = {"a", "an"}
            assert sorted(set(right.split()) - articles) == sorted(set(wrong.split()) - articles)


def test_questions_have_the_answers_that_the_files_give(root: Path, seen: dict[int, list[Seen]]) -> None:
    kinds = set()
    asked = load(root, "vqa/v2_OpenEnded_mscoco_train_questions.json")["questions"]
    answered = load(root, "vqa/v2_mscoco_train_annotations.json")["annotations"]
    for question, annotation in zip(asked, answered, strict=True):
        text, answer, things = question["question"], annotation["multiple_choice_answer"], seen[question["image_id"]]
        kinds.add(annotation["question_type"])
        assert text.lower().startswith(annotation["question_type"])
        if match := re.fullmatch(r"Is there an? (\w+) (\w+)\?", text):
            assert answer == ("yes" if any((t.colour, t.shape) == match.groups() for t in things) else "no")
        elif match := re.fullmatch(r"How many (\w+) are there\?", text):
            assert answer == str(sum(t.shape == SHAPES[match[1]] for t in things))
        elif match := re.fullmatch(r"How many shapes are in the picture\?", text):
            assert answer == str(len(things))
        elif match := re.fullmatch(r"What color (?:is|are) the (?!background)(\w+)\?", text):
            assert {t.colour for t in things if t.shape == SHAPES[match[1]]} == {answer}
        elif match := re.fullmatch(r"What shape (?:is|are) the (\w+) objects?\?", text):
            assert {t.shape for t in things if t.colour == match[1]} == {answer}
        elif match := re.fullmatch(r"What pattern (?:does|do) the (\w+) (\w+) have\?", text):
            assert {t.texture for t in things if (t.colour, t.shape) == (match[1], SHAPES[match[2]])} == {answer}
        elif match := re.fullmatch(r"Which side of the picture (?:is|are) the (\w+) (\w+) on\?", text):
            assert lies(answer, [t for t in things if (t.colour, t.shape) == (match[1], SHAPES[match[2]])])
        elif match := re.fullmatch(rf"Is the (\w+) (\w+) ({RELATION}) the (\w+) (\w+)\?", text):
            first, second = (
                [t for t in things if (t.colour, t.shape) == pair] for pair in (match.groups()[:2], match.groups()[3:])
            )
            assert answer == ("yes" if related(RELATIONS[match[3]], first, second) else "no")
        else:
            assert text == "What color is the background?"
    assert len(kinds) >= 6
