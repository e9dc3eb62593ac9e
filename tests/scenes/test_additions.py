"""RefCOCO's files and panoptic segmentations are added to finished sets, whose own files stay as they were."""

from __future__ import annotations

import colorsys
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.scenes.conftest import load
from tests.scenes.test_draw import HUES, decode
from tests.scenes.test_generate import digest
from vlp.scenes.additions import ADDITIONS, has_addition
from vlp.scenes.generate import generate, is_complete
from vlp.system.errors import UserError

WANTED: dict[str, Any] = {"images": {"train": 4, "val": 2}, "size": 32, "seed": 0}


def test_a_set_drawn_without_them_gets_the_same_files_and_keeps_its_own(tmp_path: Path) -> None:
    generate(tmp_path / "later", **WANTED)
    (tmp_path / "later" / "labels.json").write_text("mine")
    before = digest(tmp_path / "later")
    stamps = {name: (tmp_path / "later" / name).stat().st_mtime_ns for name in before}
    for name in ADDITIONS:
        assert not is_complete(tmp_path / "later", **WANTED, additions=(name,))
        generate(tmp_path / "later", **WANTED, additions=(name,))
        assert is_complete(tmp_path / "later", **WANTED, additions=(name,))
    generate(tmp_path / "at_once", **WANTED, additions=ADDITIONS)
    after = digest(tmp_path / "later")
    assert {name: after[name] for name in before} == before
    assert {name: (tmp_path / "later" / name).stat().st_mtime_ns for name in before} == stamps
    assert {name: content for name, content in after.items() if name != "labels.json"} == digest(tmp_path / "at_once")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at_once", "later"]


def test_what_is_incomplete_is_written_again(tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    generate(out, **WANTED, additions=ADDITIONS)
    complete = digest(out)
    next((out / "annotations/panoptic_val").iterdir()).unlink()
    (out / "refcoco/instances.json").unlink()
    assert [name for name in ADDITIONS if has_addition(out, name)] == ["pairs", "visdial"]
    generate(out, **WANTED, additions=ADDITIONS)
    assert digest(out) == complete


def test_an_interrupted_addition_leaves_the_set_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "scenes"
    generate(out, **WANTED)
    before = digest(out)

    def breaks(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["vlp.scenes.additions"], "coco_panoptic", breaks)
    with pytest.raises(KeyboardInterrupt):
        generate(out, **WANTED, additions=("panoptic",))
    assert digest(out) == before
    assert list(tmp_path.iterdir()) == [out]


def test_pictures_that_would_be_drawn_otherwise_get_no_additions(tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    generate(out, **WANTED)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"pixels_sha256": "0"}))
    for name in ADDITIONS:
        with pytest.raises(UserError, match="draws otherwise"):
            generate(out, **WANTED, additions=(name,))
        assert not has_addition(out, name)
    assert is_complete(out, **WANTED)
    shutil.rmtree(out)


def test_pairs_are_the_instances_by_colour_and_shape(tmp_path: Path) -> None:
    for crowded, size in ((False, 64), (True, 128)):
        out = tmp_path / str(crowded)
        generate(out, images={"val": 25}, size=size, seed=2, crowded=crowded, additions=("pairs",))
        by_shape, by_pair = (load(out, f"{folder}/instances_val.json") for folder in ("annotations", "pairs"))
        names = [{c["id"]: c["name"] for c in content["categories"]} for content in (by_shape, by_pair)]
        assert len(names[1]) == 63
        assert names[1][41] == "red star"
        assert by_shape["images"] == by_pair["images"]
        for image in by_shape["images"]:
            shapes, pairs = (
                [a for a in content["annotations"] if a["image_id"] == image["id"]] for content in (by_shape, by_pair)
            )
            assert sum(a["area"] for a in shapes) == sum(a["area"] for a in pairs)
            if not any(a["iscrowd"] for a in shapes):
                assert [a | {"category_id": 0} for a in shapes] == [a | {"category_id": 0} for a in pairs]
                assert [names[0][a["category_id"]] for a in shapes] == [
                    names[1][a["category_id"]].split()[1] for a in pairs
                ]
            pixels = np.asarray(Image.open(out / image["coco_url"]).convert("RGB")) / 255
            for annotation in pairs:
                inside = pixels[decode(annotation["segmentation"])]
                hues = [360 * h for h, s, v in (colorsys.rgb_to_hsv(*rgb) for rgb in inside) if s > 0.35 and v > 0.3]
                nearest = [min(HUES, key=lambda name: abs((h - HUES[name] + 180) % 360 - 180)) for h in hues]
                if len(nearest) > 20:
                    assert max(set(nearest), key=nearest.count) == names[1][annotation["category_id"]].split()[0]
    assert any(a["iscrowd"] for a in by_pair["annotations"])


def test_unknown_additions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose from refcoco, panoptic, pairs"):
        generate(tmp_path / "scenes", **WANTED, additions=("refcocog",))
    with pytest.raises(UserError, match=r"of crowded scenes: choose from refcoco, panoptic, pairs$"):
        generate(tmp_path / "scenes", **WANTED | {"size": 96}, crowded=True, additions=("visdial",))
