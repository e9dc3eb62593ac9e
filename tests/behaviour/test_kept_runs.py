"""What earlier versions left on a disk is still used as it was: run folders, a sweep, checkpoints, a tokenizer (see keep.py).

Each resumed run must end as the same run without an interruption did. Its losses and figures were recorded on one processor,
and others differ from it by rounding: float32's in the first resumed step, and what Muon's bfloat16 iterations make of that
in the next ones. Whether a change is exact is for `tests/behaviour/curves.py` to say, on one machine.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vlp
from tests.behaviour.keep import CONF, ROOT, TEXTS, figures, losses, numbers
from vlp.tokenizers.base import Tokenizer

KEPT = Path(__file__).with_name("kept")
EXPECTED = json.loads((KEPT / "expected.json").read_text())
RENAMED: dict[
    str, str
] = {}  # words of the kept command lines that have another name today, where the old one is refused
# Relative, of losses. Without vector instructions they differ by 2e-7 from those recorded with AVX-512, and by 2e-5 with Muon.
TOLERANCE = {"dual": 2e-4, "albef": 1e-6, "sweep_0": 1e-6, "sweep_1": 1e-6}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder with `runs` in it, as the processes of then left them."""
    shutil.copytree(KEPT / "run_folders", tmp_path / "runs")
    for file in (tmp_path / "runs").rglob("*.ckpt.xz"):
        file.with_suffix("").write_bytes(lzma.decompress(file.read_bytes()))
        file.unlink()
    return tmp_path


def call(disk: Path, *command: str, code: int = 0, **environment: str) -> str:
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *command], cwd=disk, env=os.environ | own | environment, capture_output=True, text=True, timeout=200
    )  # fmt: skip
    assert done.returncode == code, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def train(disk: Path, *overrides: str, code: int = 0, **environment: str) -> str:
    command = (str(ROOT / "train.py"), "--config-dir", str(CONF), *overrides)
    return call(disk, *command, code=code, **environment)


def unfinished(disk: Path, name: str) -> Path:
    (folder,) = (f for f in (disk / "runs" / name).iterdir() if not (f / "results.json").exists())
    return folder


def finished(disk: Path) -> Path:
    (results,) = (disk / "runs" / "albef").glob("*/results.json")
    return results.parent


def same_end(folder: Path, name: str) -> None:
    found, expected = losses(folder), EXPECTED[name]["losses"]
    assert [list(line) for line in found] == [list(line) for line in expected]
    for line, wanted in zip(found, expected, strict=True):
        assert line == pytest.approx(wanted, rel=TOLERANCE[name])
    assert figures(folder) == pytest.approx(EXPECTED[name]["figures"], rel=1e-6)


def command_of(folder: Path) -> list[str]:
    """The overrides that a run was started with: the first line of its config."""
    line = (folder / "config.yaml").read_text().splitlines()[0]
    words = shlex.split(line.removeprefix("# "))[2:]
    return [RENAMED.get(key, key) + equals + value for key, equals, value in (word.partition("=") for word in words)]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_nothing_in_them_names_a_machine() -> None:
    for file in (file for file in KEPT.rglob("*") if file.is_file()):
        content = lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()
        assert not any(folder in content for folder in (b"/home/", b"/root/", b"/tmp/", b"/Users/")), file


@pytest.mark.parametrize("name", ["dual", "albef"])
def test_a_run_resumes_to_its_end(name: str, disk: Path) -> None:
    """`dual` was killed within a validation that is done again, after its best one, whose checkpoint stays."""
    folder = unfinished(disk, name)
    best = folder / "checkpoints" / "best.ckpt"
    before = sha256(best) if best.exists() else None
    train(disk, f"resume={folder}")
    same_end(folder, name)
    assert before in (None, sha256(best))


@pytest.mark.parametrize("name", ["dual", "albef"])
def test_the_same_command_finds_it(name: str, disk: Path) -> None:
    """With resume=auto. The run ends at once, as what it would train is another test's."""
    folder, before = unfinished(disk, name), set((disk / "runs" / name).iterdir())
    printed = train(disk, *command_of(folder), "resume=auto", code=1, VLP_FAULTS="site=build,kind=exit")
    assert str(folder.relative_to(disk)) in printed
    assert set((disk / "runs" / name).iterdir()) == before


def test_an_ended_run_is_measured_as_then(disk: Path) -> None:
    folder = finished(disk)
    call(disk, str(ROOT / "evaluate.py"), f"checkpoint={folder}", "name=measured")
    (measured,) = (disk / "runs" / "measured").iterdir()
    then = {key: value for key, value in figures(folder).items() if key.startswith("test/")}
    assert figures(measured) == pytest.approx(then, rel=1e-6)


@pytest.mark.parametrize("name", ["dual", "albef"])
def test_checkpoints_load(name: str, disk: Path) -> None:
    """From the run folder, and the file alone."""
    folder = unfinished(disk, "dual") if name == "dual" else finished(disk)
    alone = disk / "alone.ckpt"
    shutil.copyfile(folder / "checkpoints" / "best.ckpt", alone)
    for path in (folder, alone):
        found, expected = numbers(path), EXPECTED["numbers"][name]
        assert found.keys() == expected.keys()
        assert found["ids"] == expected["ids"]
        for key in found.keys() - {"ids"}:
            for row, wanted in zip(found[key], expected[key], strict=True):
                assert row == pytest.approx(wanted, abs=1e-5)


def test_the_momentum_copy_and_the_queues_come_along(disk: Path) -> None:
    predictor = vlp.load(finished(disk))
    assert predictor.momentum is not None
    assert predictor.objectives["itc"].image_queue.count == 13


def test_compare_shows_them(disk: Path) -> None:
    rows = json.loads(
        call(disk, "-m", "vlp.cli", "compare", "runs", "--json", "--metric", "test/scenes/retrieval/rsum")
    )
    shown = {
        frozenset(str(Path(run).relative_to("runs")) for run in row["runs"]): row["figures"] for row in rows
    }  # runs that differ in their seed alone are one row
    names = [sorted({Path(run).parts[0] for run in runs}) for runs in shown]
    assert sorted(names) == [["albef"], ["dual"], ["sweep"]]
    by_name = {Path(next(iter(runs))).parts[0]: (len(runs), found) for runs, found in shown.items()}
    assert {name: count for name, (count, _) in by_name.items()} == {"albef": 2, "dual": 1, "sweep": 2}
    key = "test/scenes/retrieval/rsum"
    assert by_name["dual"][1] == {}
    assert by_name["albef"][1][key][0] == figures(finished(disk))[key]
    assert by_name["sweep"][1][key][0] == EXPECTED["sweep_1"]["figures"][key]
    assert "albef" in call(disk, "-m", "vlp.cli", "compare", "runs")


def test_the_sweep_is_resumed(disk: Path) -> None:
    (folder,) = (disk / "runs" / "sweep").iterdir()
    before = (folder / "1_seed=4" / "results.json").read_bytes()
    printed = call(disk, "-m", "vlp.cli", "sweep", "resume", str(folder.relative_to(disk)))
    same_end(folder / "0_seed=3", "sweep_0")
    same_end(folder / "1_seed=4", "sweep_1")
    assert (folder / "1_seed=4" / "results.json").read_bytes() == before, "the job that had ended ran again"
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    name = "val/scenes/retrieval/rsum"
    assert [(job["overrides"], job["status"]) for job in jobs] == [("seed=3", "finished"), ("seed=4", "finished")]
    assert [job["metric"] for job in jobs] == [
        {"name": name, "value": pytest.approx(EXPECTED[f"sweep_{job}"]["figures"][name], rel=1e-6)} for job in (0, 1)
    ]
    table = [line for line in printed.splitlines() if "seed=" in line and "finished" in line]
    assert len(table) == 2


def test_a_trained_tokenizer_reads_the_same_ids() -> None:
    tokenizer = Tokenizer.from_json((KEPT / "tokenizer.json").read_text())
    assert tokenizer.encode(list(TEXTS)) == EXPECTED["numbers"]["albef"]["ids"]
    text = tokenizer(list(TEXTS))
    first = EXPECTED["numbers"]["albef"]["ids"][0]
    assert text.ids[0, : len(first) + 2].tolist() == [1, *first, 269]
    assert (tokenizer.mask_id, tokenizer.size, tokenizer.context_length) == (268, 270, 40)
