"""Dialogues about scenes: what they say is true, pronouns need the history, and no answer is frequent."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator

from vlp.scenes.dialogue import ANSWERS, OPTIONS, ROUNDS, Dialogue, relevance, write_dialogue
from vlp.scenes.scene import NUMBERS, Scene, Thing, sample_scene, side_of

SCENES = 400


def drawn() -> Iterator[tuple[Scene, Dialogue]]:
    for index in range(SCENES):
        scene = sample_scene(seed=3, split="train", index=index)
        yield scene, write_dialogue(random.Random(index), scene)


def says(scene: Scene, things: tuple[Thing, ...]) -> set[tuple[str, str]]:
    """What is true of a group, found by another way than the generator's."""
    facts = {(name, getattr(things[0], name)) for name in ("colour", "shape", "texture", "size")}
    facts |= {("existence", "yes"), ("number", NUMBERS[len(things)])}
    return facts | set(zip(("vertical", "horizontal"), side_of(things), strict=True))


def test_a_dialogue_has_eight_or_nine_rounds_of_twenty_different_options() -> None:
    lengths = Counter(len(dialogue.rounds) for _, dialogue in drawn())
    assert set(lengths) == set(ROUNDS)
    for _, dialogue in drawn():
        for asked in dialogue.rounds:
            assert len(set(asked.options)) == OPTIONS
            assert asked.relevance[asked.correct] == 1.0
            assert sum(value == 1.0 for value in asked.relevance) == 1  # so recall@1 can reach 100


def test_answers_are_true_of_the_group_that_a_pronoun_means() -> None:
    for scene, dialogue in drawn():
        named: int | None = None
        for asked in dialogue.rounds:
            if asked.pronoun:
                assert asked.group == named  # the last group that an opening question named
            elif asked.group is not None:
                named = asked.group
            if asked.group is not None:
                assert ANSWERS[asked.answer] <= says(scene, scene.groups[asked.group])
            words = asked.question.split()
            assert asked.pronoun == bool({"it", "they"} & set(words))
            if asked.group is not None and asked.pronoun:
                assert ("they" in words) == (len(scene.groups[asked.group]) > 1)


def test_no_text_about_a_group_names_another() -> None:
    for scene, dialogue in drawn():
        for asked in dialogue.rounds:
            if asked.group is None and asked.answer == "no":
                last = asked.question.split()[-1]
                shapes = {thing.shape for thing in scene.things} | {thing.colour for thing in scene.things}
                assert last not in shapes
                assert last.removesuffix("s").removesuffix("e") not in shapes


def test_relevance_is_the_share_of_the_facts_and_0_for_a_false_one() -> None:
    truth = ANSWERS["small and dotted"]
    values = {text: relevance(facts, truth) for text, facts in ANSWERS.items()}
    positive = {text: value for text, value in values.items() if value}
    assert positive == {"small and dotted": 1.0, "small": 0.5, "dotted": 0.5}
    assert relevance(ANSWERS["top"], ANSWERS["top left"]) == 0.5
    assert relevance(ANSWERS["top left"], ANSWERS["top"]) == 0.0  # it says more than was asked


def test_most_rounds_need_the_history_and_no_answer_is_frequent() -> None:
    answers: Counter[str] = Counter()
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    pronouns = 0
    for _, dialogue in drawn():
        for asked in dialogue.rounds:
            answers[asked.answer] += 1
            by_question[asked.question][asked.answer] += 1
            pronouns += asked.pronoun
    total = sum(answers.values())
    assert pronouns / total > 0.6
    assert len(answers) >= 40
    assert answers.most_common(1)[0][1] / total < 0.15
    # the best answer to a question by its words alone
    assert sum(found.most_common(1)[0][1] for found in by_question.values()) / total < 0.6


def test_a_dialogue_depends_on_its_seed_alone() -> None:
    scene = sample_scene(seed=3, split="val", index=1)
    assert write_dialogue(random.Random("a"), scene) == write_dialogue(random.Random("a"), scene)
    assert write_dialogue(random.Random("a"), scene) != write_dialogue(random.Random("b"), scene)
