"""Dialogues in VisDial's files: the texts that indices name are those of the dialogue, and one round of each has relevances."""

from __future__ import annotations

from vlp.scenes.generate import draw_default_scene
from vlp.scenes.picture import Picture
from vlp.scenes.visdial import dialogue_of, visdial_files


def pictures() -> list[Picture]:
    return [draw_default_scene(seed=1, split="val", index=index, size=32)[0] for index in range(3)]


def test_indices_name_the_texts_of_the_dialogue() -> None:
    drawn = pictures()
    dialogues, relevances = visdial_files(drawn, "val", seed=1).values()
    data = dialogues["data"]
    assert [record["image_id"] for record in data["dialogs"]] == [picture.id for picture in drawn]
    for picture, record, dense in zip(drawn, data["dialogs"], relevances, strict=True):
        dialogue = dialogue_of(picture, seed=1)
        assert record["caption"] == dialogue.caption
        assert len(record["dialog"]) == len(dialogue.rounds)
        for asked, written in zip(dialogue.rounds, record["dialog"], strict=True):
            assert data["questions"][written["question"]] == asked.question
            assert tuple(data["answers"][option] for option in written["answer_options"]) == asked.options
            assert written["answer_options"][written["gt_index"]] == written["answer"]
        assert dense["image_id"] == picture.id
        assert tuple(dense["gt_relevance"]) == dialogue.rounds[dense["round_id"] - 1].relevance


def test_a_dialogue_does_not_depend_on_the_others() -> None:
    drawn = pictures()
    every = visdial_files(drawn, "val", seed=1)["visdial/visdial_1.0_val.json"]["data"]
    alone = visdial_files(drawn[2:], "val", seed=1)["visdial/visdial_1.0_val.json"]["data"]
    texts = [
        [data["questions"][asked["question"]] for asked in data["dialogs"][-1]["dialog"]] for data in (every, alone)
    ]
    assert texts[0] == texts[1]
    assert every["dialogs"][-1]["dialog"][0]["answer_options"] == alone["dialogs"][-1]["dialog"][0]["answer_options"]
