from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scenes.conftest import COUNTS, load
from vlp.scenes.generate import generate, is_complete


def digest(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def kinds(value: Any) -> Any:
    """Keys and types, to any depth, of the first element of lists."""
    if isinstance(value, dict):
        return {key: kinds(entry) for key, entry in sorted(value.items())}
    return [kinds(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_what_is_written_is_the_same_in_another_process_and_with_another_hash_seed(tmp_path: Path) -> None:
    code = "import sys, pathlib; from vlp.scenes.generate import generate; "
    code += "generate(pathlib.Path(sys.argv[1]), images=8, seed=5)"
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env=environment, timeout=60)
    generate(tmp_path / "here", images=8, seed=5)
    assert digest(tmp_path / "1") == digest(tmp_path / "2") == digest(tmp_path / "here")
    generate(tmp_path / "other", images=8, seed=6)
    assert digest(tmp_path / "other") != digest(tmp_path / "here")


def test_a_larger_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    generate(tmp_path / "few", images={"train": 3, "test": 2}, seed=1)
    generate(tmp_path / "many", images={"train": 6, "val": 2, "test": 4}, seed=1)
    few, many = digest(tmp_path / "few"), digest(tmp_path / "many")
    images = {name for name in few if name.endswith(".png")}
    assert len(images) == 5
    assert all(many[name] == few[name] for name in images)
    for split, count in (("train", 3), ("test", 2)):
        small, large = (load(tmp_path / name, f"annotations/captions_{split}.json") for name in ("few", "many"))
        assert large["annotations"][: 5 * count] == small["annotations"]


def test_splits_share_neither_ids_nor_pictures(root: Path) -> None:
    images = load(root, "dataset_coco.json")["images"]
    assert [sum(i["split"] == split for i in images) for split in COUNTS] == list(COUNTS.values())
    for key in ("cocoid", "imgid", "filename"):
        assert len({i[key] for i in images}) == len(images)
    files = [(root / i["filepath"] / i["filename"]).read_bytes() for i in images]
    assert len(set(files)) == len(files)


def test_an_interrupted_run_leaves_nothing_and_a_finished_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, wanted = tmp_path / "scenes", {"images": 8, "size": 32, "seed": 0}
    module = sys.modules["vlp.scenes.generate"]
    draw, calls = module.describe_scene, []

    def breaks(**which: Any) -> Any:
        calls.append(which)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return draw(**which)

    monkeypatch.setattr(module, "describe_scene", breaks)
    with pytest.raises(KeyboardInterrupt):
        generate(out, **wanted)
    assert list(tmp_path.iterdir()) == []
    generate(out, **wanted)
    assert is_complete(out, **wanted)
    count = len(calls)
    generate(out, **wanted)
    assert len(calls) == count
    assert list(tmp_path.iterdir()) == [out]


def test_a_set_is_complete_only_for_the_same_request_and_with_all_files(tmp_path: Path) -> None:
    out, wanted = tmp_path / "scenes", {"images": {"train": 4, "test": 2}, "size": 32, "seed": 0}
    generate(out, **wanted)
    assert is_complete(out, **wanted)
    for change in ({"seed": 1}, {"size": 64}, {"images": {"train": 4, "test": 3}}):
        assert not is_complete(out, **(wanted | change))
        with pytest.raises(FileExistsError, match="delete it or name another folder"):
            generate(out, **(wanted | change))
    next((out / "train").iterdir()).unlink()
    assert not is_complete(out, **wanted)
    assert not is_complete(tmp_path / "nowhere", **wanted)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="files of your own"):
        generate(tmp_path, images=4)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("images", [0, 3, {"train": 0}, {"valid": 3}, {}])
def test_numbers_of_images_that_make_no_set_are_refused(tmp_path: Path, images: Any) -> None:
    with pytest.raises(ValueError, match="above 0"):
        generate(tmp_path / "scenes", images=images)


def test_the_manifest_holds_the_digest_of_each_file(root: Path) -> None:
    manifest = json.loads((root / "manifest.json").read_text())
    written = digest(root)
    assert manifest["images"] == COUNTS
    assert manifest["sha256"] == {n: d for n, d in written.items() if not n.endswith(".png") and n != "manifest.json"}


def test_the_default_set_is_the_one_of_version_1_3(root: Path) -> None:
    """Folders drawn by earlier versions of vlp are read as they are, so pictures and files must not change."""
    manifest = json.loads((root / "manifest.json").read_text())
    del manifest["sha256"]["README.md"]
    found = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    assert found == "56b1520e16af9e0e7256741b87bd39a7e74e416666339065465a6dc7aaaaf5cd"


def test_flickr_lists_cover_every_image_with_five_captions(root: Path) -> None:
    lines = (root / "flickr/Flickr8k.token.txt").read_text().splitlines()
    names = [line.split("#")[0] for line in lines]
    listed = [
        name
        for split in ("train", "dev", "test")
        for name in (root / f"flickr/Flickr_8k.{split}Images.txt").read_text().split()
    ]
    assert len(listed) == len(set(listed)) == sum(COUNTS.values())
    assert sorted(listed * 5) == sorted(names)
    assert all((root / name).is_file() for name in listed)


def test_ten_answers_with_the_official_fields(root: Path) -> None:
    for annotation in load(root, "vqa/v2_mscoco_val_annotations.json")["annotations"]:
        assert [a["answer_id"] for a in annotation["answers"]] == list(range(1, 11))
        assert {a["answer_confidence"] for a in annotation["answers"]} == {"yes"}
        assert {a["answer"] for a in annotation["answers"]} == {annotation["multiple_choice_answer"]}


REAL = {
    "annotations/captions_val.json": "coco-sample/annotations/captions_val2017.json",
    "annotations/instances_val.json": "coco-sample/annotations/instances_val2017.json",
    "vqa/v2_OpenEnded_mscoco_val_questions.json": "coco-sample/vqa/v2_OpenEnded_mscoco_train2014_questions.json",
    "vqa/v2_mscoco_val_annotations.json": "coco-sample/vqa/v2_mscoco_train2014_annotations.json",
    "dataset_coco.json": "flickr8k/dataset_flickr8k.json",
} | {
    f"visual_genome/{name}.json": f"vg-sample/v1.2.0/{name}.json"
    for name in ("image_data", "objects", "attributes", "relationships", "region_descriptions", "question_answers")
}


@pytest.mark.parametrize("name", REAL)
def test_keys_and_types_are_those_of_the_real_files(root: Path, shared: Path, name: str) -> None:
    ours, real = kinds(load(root, name)), kinds(load(shared / "data", REAL[name]))
    if name == "dataset_coco.json":  # COCO's has two keys more than Flickr8k's
        assert ours["images"][0].pop("filepath") == "str"
        assert ours["images"][0].pop("cocoid") == "int"
    if "instances" in name:
        assert ours["annotations"][0].pop("segmentation") == {"counts": ["int"], "size": ["int"]}
        assert real["annotations"][0].pop("segmentation") == [["float"]]
    if "vqa" in name:  # the sample's head is cut short
        assert real.pop("info").items() <= ours.pop("info").items()
    text = json.dumps(ours).replace('"synsets": "list"', '"synsets": ["str"]')
    if name == "visual_genome/image_data.json":
        text = text.replace('"coco_id": "int"', '"coco_id": "NoneType"')  # the real sample's five have none
    assert json.loads(text) == real
