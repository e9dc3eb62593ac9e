"""Which files each kind of scenes has."""

from __future__ import annotations

from pathlib import Path

from tests.scenes.conftest import load


def names(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.suffix != ".png"}


def test_crowded_scenes_have_coco_s_files_and_say_what_each_thing_is(crowded_root: Path) -> None:
    splits = ("train", "restval", "val", "test")
    assert names(crowded_root) == {
        "README.md", "manifest.json", "dataset_coco.json", "flickr/Flickr8k.token.txt", "refcoco/refs(unc).p",
        "refcoco/instances.json", "additions/refcoco.json", "additions/panoptic.json",
        *(f"annotations/{name}_{split}.json" for name in ("captions", "instances", "panoptic") for split in splits),
        *(f"things/{split}.json" for split in splits), *(f"also_true/{split}.json" for split in ("train", "val", "test")),
        *(f"flickr/Flickr_8k.{name}Images.txt" for name in ("train", "dev", "test")),
    }  # fmt: skip
    instances = load(crowded_root, "annotations/instances_val.json")
    names_of = {category["id"]: category["name"] for category in instances["categories"]}
    for image in instances["images"]:
        listed = load(crowded_root, "things/val.json")[image["file_name"]]
        marked = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        assert {thing["shape"] for thing in listed} == {names_of[a["category_id"]] for a in marked}
        assert len(listed) - len(marked) == 0 or any(a["iscrowd"] for a in marked)


def test_files_of_additions_alone_are_what_the_default_set_gains(root: Path, referring: Path) -> None:
    gained = names(referring) - names(root)
    assert names(root) < names(referring)
    assert {name.split("/")[0] for name in gained} == {"additions", "refcoco", "annotations"}
    assert all("panoptic" in name for name in gained if name.startswith("annotations"))
