"""Every command line of README.md, docs/, CONTRIBUTING.md and the READMEs of experiments/ runs.

They are read from the pages, so a new one is tested without a change here. A command runs in bash as the page has it, in a new
folder with drawn data in official layouts (documents/layouts.py); a training gets settings that make it short
(documents/shorten.py). What cannot run is marked in the page (documents/pages.py), and its arguments are checked.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.behaviour.documents import layouts
from tests.behaviour.documents.pages import NOT_RUN, PAGES, ROOT, Command, commands, is_marked
from tests.behaviour.documents.shorten import short_settings
from tests.behaviour.documents.world import World
from tests.behaviour.test_benchmarks import SHORT as SHORT_BENCHMARKS
from vlp.cli import build_parser

COMMANDS = commands()
# several processes or jobs, large models, everything that a run writes, or programs that take long themselves
SLOW = re.compile(
    r"make |-m |torchrun|trainer=(ddp|fsdp|gpu)|devices=2|max-restarts|experiment|clip_vit|ViT-B|sweep resume|s3:|timm|"
    r"runs/(albef|detection|segmentation|vcr|dialogue|translation)_|"
    r"vlp (scenes|doctor|export|index|search)|data (pack|index)|resume=|runs/coco|logger=(wandb|tensorboard)|"
    r"train\.py($| trainer\.max_epochs| optimizer)|training\.run"
)
QUICK = re.compile(r"-m pip|--list|--help|optimzer")
CHECKOUT = re.compile(r"make docs|pre-commit|pip ")  # commands that write into the checkout, or read more of it
EXIT_CODES = {"python train.py optimzer.lr=1e-4": 2}
REASON = r".{15,}"
SHORT_PROGRAMS = SHORT_BENCHMARKS | {
    "gradient_cache_memory": ("--batch", "8", "--chunk", "4", "--compared", "4"),
    "image_loading": ("--rounds", "1", "--count", "4"),
    "training_step": ("--rounds", "1", "--batch", "2"),
    "frozen_towers": ("--steps", "2", "--seeds", "1", "data.images={train:16,val:4,test:4}"),
}


def is_mention(command: Command) -> bool:
    """`vlp data check` in a sentence: a command's name, or its form with a word in capitals, and not a command line."""
    return re.fullmatch(r"(vlp|pre-commit)( [a-z]+)+( [A-Z]+)?", command.text) is not None and command.text != "vlp ls"


def parameters(found: list[Command]) -> list[object]:
    slow = [SLOW.search(command.text) and not QUICK.search(command.text) for command in found]
    return [
        pytest.param(command, id=command.text, marks=[pytest.mark.slow, pytest.mark.timeout(900)] if late else [])
        for command, late in zip(found, slow, strict=True)
    ]


def appended(world: World, text: str, words: list[str]) -> list[str]:
    """What makes a command short, or keeps it from the network."""
    program, *rest = words
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    hydra = next((name for name in ("train", "evaluate") if f"{name}.py" in words or words[:2] == ["vlp", name]), None)
    if text == "make train":
        hydra = "train"
    if "optimzer" in text or "--cfg" in text or "--help" in text:
        return []
    if hydra or words[:2] == ["vlp", "doctor"]:
        found = short_settings(hydra or "train", overrides)
        ray = "sweep.executor=ray" in words and importlib.util.find_spec("ray") is None
        return [*found, *(["sweep.executor=local"] if ray else [])]
    if program == "pip":
        return ["--dry-run", "--no-index", "--no-build-isolation", "--no-deps"]
    script = re.search(r"experiments/\w+/(\w+)\.py", text)
    return list(SHORT_PROGRAMS.get(script[1], ())) if script else []


def run_as_documented(world: World, command: Command, folder: Path) -> tuple[str, str]:
    """What it printed, and what it printed as errors; the exit code is right."""
    if CHECKOUT.match(command.text):
        layouts.copy_checkout(folder := folder / "checkout")
        world.run("git init -q", folder)
        (folder / ".venv").symlink_to(world.folder / ".venv")
        text = command.text
    else:
        text = world.prepare(command.text, folder)
    environment = world.bucket if "s3://" in text else {}
    if "executor=slurm" in text:
        environment = {"PATH": f"{world.slurm}:{world.environment['PATH']}"}
    short = appended(world, command.text, shlex.split(text))
    done = world.run(text, folder, *short, **environment)
    expected = EXIT_CODES.get(command.text, 0)
    assert done.returncode == expected, f"{text} {shlex.join(short)}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    check_files(text, folder)
    return done.stdout, done.stderr


def check_files(text: str, folder: Path) -> None:
    """The files that a command says it writes."""
    words = shlex.split(text)
    options = ("--html", "--csv", "--report", "--out")
    named = [after for option, after in itertools.pairwise(words) if option in options]
    if re.match(r"vlp (data (clean|pack)|scenes) [^-]", text):
        named.append(words[2 + (words[1] == "data")])
    if text.startswith("vlp convert"):
        named.append(words[3])
    assert [name for name in named if not (folder / name).exists()] == []
    if words[1:2] == ["-m"] and "train.py" not in words and "sweep" not in text:
        return
    is_run = re.match(r"(python|torchrun) .*(train|evaluate)\.py|vlp (train|evaluate)|make train", text)
    if is_run and not re.search(r"--cfg|--help|optimzer", text):
        runs = [file.parent for file in (folder / "runs").rglob("config.yaml")]
        assert runs
        ledgers = list((folder / "runs").rglob("sweep.json"))
        assert bool(ledgers) == (" -m " in text)
        for ledger in ledgers:
            assert {job["status"] for job in json.loads(ledger.read_text())["jobs"]} == {"finished"}
        newest = max(runs, key=lambda run: (run / "config.yaml").stat().st_mtime)
        results = json.loads((newest / "results.json").read_text())
        measured = any(re.fullmatch(r"(val|test)/\w+/\w+/\w+", key) for key in results)
        only_train = re.search(r"data\.splits(=\{train:|\.train=)", text) is not None
        assert measured == (not only_train), "without val and test there is nothing to measure"


@pytest.mark.parametrize(
    "command", parameters([command for command in COMMANDS if not is_mention(command) and not command.reason])
)
def test_a_documented_command_runs(command: Command, world: World, tmp_path: Path) -> None:
    out, errors = run_as_documented(world, command, tmp_path)
    if command.output is not None:
        assert out + errors == command.output
    if "resume" in command.text:
        assert "resuming" in errors or "sweep resume" in command.text, errors
    if " ls" in command.text:
        assert all(f"{kind} (" in out for kind in ("models", "towers", "data", "objectives", "tasks", "experiments"))
    if "--cfg job" in command.text:
        assert "optimizer:" in out


@pytest.mark.parametrize("command", [pytest.param(c, id=c.text) for c in COMMANDS if is_mention(c)])
def test_a_command_named_in_a_sentence_exists(command: Command, world: World, tmp_path: Path) -> None:
    words = [word for word in shlex.split(command.text) if not word.isupper()]
    done = world.run(f"{shlex.join(words)} --help", tmp_path)
    assert done.returncode == 0, done.stderr
    form = re.search(r"[A-Z]+$", command.text)
    assert form is None or form[0] in done.stdout


@pytest.mark.parametrize("command", [pytest.param(c, id=c.text) for c in COMMANDS if c.reason])
def test_a_command_that_is_not_run_is_right_nonetheless(command: Command, world: World, tmp_path: Path) -> None:
    program, *words = shlex.split(command.text)
    assert re.fullmatch(REASON, command.reason or "")
    if program == "make":
        layouts.copy_checkout(tmp_path / "checkout")
        (tmp_path / "checkout" / ".venv").symlink_to(world.folder / ".venv")
        assert world.run(f"make --dry-run {words[0]}", tmp_path / "checkout").returncode == 0
    elif program == "vlp":
        build_parser().parse_args(words)
    elif program == "pip":
        assert world.run(f"pip install --help && pip download {words[-1]} --help", tmp_path).returncode == 0
    elif words[0].endswith(".py") or words[0] == "-m":
        assert (ROOT / words[0]).is_file() or importlib.util.find_spec(words[1]) is not None
        assert world.run(f"{command.text} --help", ROOT).returncode == 0
    else:
        assert world.run(f"{program} {words[0]} --help", tmp_path).returncode == 0


def test_a_marker_says_what_is_not_run() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("<!--") == len(NOT_RUN.findall(text)), f"{page}: a comment that is no marker"
        shown = [command.text for command in COMMANDS if page.relative_to(ROOT).as_posix() in command.pages]
        for words, _ in NOT_RUN.findall(text):
            assert any(is_marked(line, words) for line in shown), f"{page}: {words} is marked and not shown"
    assert sum(command.reason is not None for command in COMMANDS) <= 12


def test_extras_that_the_documents_name_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for page in PAGES
        for list_ in re.findall(r"vlp\[([\w,]+)\]", page.read_text())
        for extra in list_.split(",")
    }
    assert named
    assert named <= extras.keys()


@pytest.mark.parametrize("command", [pytest.param(c, id=c.text) for c in COMMANDS if "[" in c.text or "{" in c.text])
def test_brackets_are_quoted(command: Command) -> None:
    """zsh takes an unquoted [a,b] for a pattern of file names, and stops when there are none."""
    assert not re.search(r"[\[{]", re.sub(r"'[^']*'|\"[^\"]*\"", "", command.text))
