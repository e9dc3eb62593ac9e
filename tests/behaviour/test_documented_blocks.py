"""Every Python block and recipe of the documents runs, and what they list (files of a run, figures) exists.

See test_documented_commands.py for the command lines.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.behaviour.documents.pages import PAGES, ROOT, Block, blocks, is_marked, lines
from tests.behaviour.documents.python_blocks import with_checks
from tests.behaviour.documents.world import World
from vlp.launch.config.compose import Composer, conf_folder

PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python" and not block.title]
RECIPES = [block for page in PAGES for block in blocks(page) if "@package _global_" in block.body]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", [pytest.param(block, id=block.where) for block in PYTHON])
def test_a_python_block_runs_and_returns_what_it_says(block: Block, world: World, tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(world.prepare(with_checks(block.body), tmp_path), encoding="utf-8")
    done = world.run("python block.py", tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]


def test_command_lines_are_read_as_a_page_shows_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Type `vlp ls` or `python train.py\nseed=1`; not `vlp train […]`, `train.py` or `python`.\n\n"
        "<!-- not run: `make all`: for a reason -->\n\n"
        "```bash\nmake all  # this\n# a comment\nvlp scenes OUT \\\n  --size 64\n```\n\n"
        "```console\n$ vlp nothing\nvlp: there is no such command\n$ vlp ls\n```\n\n```yaml\npython: train.py\n```\n"
    )
    assert lines(page) == [
        ("make all  # this", None),
        ("vlp scenes OUT    --size 64", None),
        ("vlp nothing", "vlp: there is no such command\n"),
        ("vlp ls", ""),
        ("vlp ls", None),
        ("python train.py seed=1", None),
    ]
    assert is_marked("wandb sync a b", "wandb sync …")
    assert not is_marked("vlp data download coco --list", "vlp data download coco")


def test_a_wrong_shape_in_a_comment_is_found() -> None:
    body = "import torch\ntorch.zeros(2, 3)  # logits [2, 2]\n"
    with pytest.raises(AssertionError, match=r"2, 2"):
        exec(with_checks(body), {})
    exec(with_checks(body.replace("[2, 2]", "[2, 3]")), {})
    exec(with_checks("[{'cat': 0.5}]  # [{\"cat\": 0.9}]\n"), {})
    with pytest.raises(AssertionError, match="dog"):
        exec(with_checks('[{\'cat\': 0.5}]  # [{"cat": 0.9, "dog": 0.1}]\n'), {})


@pytest.mark.parametrize("block", [pytest.param(block, id=block.where) for block in RECIPES])
def test_an_experiment_on_a_page_composes(block: Block, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(block.body, encoding="utf-8")
    own = Composer(conf=conf_folder(), extra=[tmp_path], config_name="train")
    config = own.compose(["experiment=mine"])
    assert config.monitor in block.body


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_folder_has_the_files_that_the_page_lists(world: World) -> None:
    (listed,) = [block.body for block in blocks(ROOT / "docs" / "index.md") if block.body.startswith("runs/")]
    names = re.findall(r"^  (\S+)", listed, re.M)
    assert len(names) >= 6
    run = world.trained("runs/scenes")
    assert sorted({path.name + "/" * path.is_dir() for path in run.glob("[!.]*")}) == sorted(names)
    assert {"best.ckpt", "last.ckpt"} <= {file.name for file in (run / "checkpoints").iterdir()}
    results = json.loads((run / "results.json").read_text())
    assert "commit" in results
    assert "test/scenes/retrieval/image_to_text_r1" in results
    assert (run / "config.yaml").read_text().startswith("# vlp train")
