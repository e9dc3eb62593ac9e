"""The `vlp` command in processes of its own."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlp import cli
from vlp.checkpoints import convert

ROOT = Path(__file__).parents[1]


def vlp(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    code = "import sys\nfrom vlp.cli import main\n"
    code += "try:\n    code = main()\nexcept SystemExit as end:\n    code = end.code\n"
    code += "assert not {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules)\nsys.exit(code)"
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "120"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd or ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_every_format_that_is_written_can_be_asked_for():
    assert cli.FORMATS == convert.FORMATS


def test_help_names_the_commands_and_imports_nothing_heavy():
    done = vlp("--help")
    assert done.returncode == 0
    for command in ("train", "evaluate", "scenes", "data", "convert", "compare", "ls"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean train?"),
        (["xyz"], "there are train, evaluate"),
        (["ls", "modles"], "there is no config group modles: did you mean models"),
        (["ls", "model/visoin"], "there is no config group model/visoin: did you mean model/vision"),
        (["compare", "gone"], "gone: there is no such folder"),
        (["convert", "gone.pt", "out", "--to", "openai"], "gone.pt"),
        (["convert", "a", "b", "--to", "openia"], "openia"),
        (["scenes"], "OUT"),
        (["data", "downloadd"], "there is no command 'downloadd': did you mean download?"),
        (["data"], "COMMAND"),
        (["data", "download", "cocoo"], "did you mean coco"),
        (["scenes", "out", "--images", "0"], "above 0"),
        ([], "COMMAND"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, tmp_path):
    done = vlp(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_scenes_are_written_with_additions_and_crowded_ones_at_their_own_size(tmp_path, capsys):
    numbers = ["--images", "2", "--val", "1"]
    for words in (["few"], ["plain", "--additions"], ["full", "--crowded"]):
        assert cli.main(["scenes", str(tmp_path / words[0]), *words[1:], *numbers]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / words[0])
    assert sorted(path.name for path in (tmp_path / "few" / "additions").iterdir()) == [
        "pairs.json",
        "panoptic.json",
        "refcoco.json",
        "visdial.json",
    ]
    assert not (tmp_path / "plain" / "additions").exists()
    manifest = json.loads((tmp_path / "full" / "manifest.json").read_text())
    assert (manifest["size"], manifest["crowded"]) == (128, True)
    assert cli.main(["scenes", str(tmp_path / "plain"), *numbers, "--additions", "refcocog"]) == 2
    assert (
        capsys.readouterr().err == "vlp scenes: additions=['refcocog']: choose from refcoco, panoptic, pairs, visdial\n"
    )


def test_questions_of_visual_commonsense_reasoning_are_written_and_checked(tmp_path, capsys):
    words = ["scenes", str(tmp_path / "questions"), "--vcr", "--check", "--images", "20"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "words and tags alone, 2 test questions: Q→A " in printed
    manifest = json.loads((tmp_path / "questions" / "manifest.json").read_text())
    assert manifest["images"] == {"train": 16, "val": 2, "test": 2}
    assert cli.main([*words, "--crowded"]) == 2
    assert capsys.readouterr().err == "vlp scenes: --vcr draws scenes of its own: leave out --crowded and --additions\n"
    assert cli.main(["scenes", str(tmp_path / "x"), "--check"]) == 2
    assert capsys.readouterr().err == "vlp scenes: --check is of questions: add --vcr\n"


def test_ls_shows_the_options_with_their_first_comment(tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\n# My own study.\nseed: 1\n")
    done = vlp("ls", "experiments", cwd=tmp_path)
    assert done.returncode == 0
    assert "mine" in done.stdout
    assert "My own study." in done.stdout


@pytest.mark.parametrize(
    ("group", "option", "comment"),
    [
        ("task", "retrieval", "Recall@1/5/10 both ways"),
        ("model/vision", "timm", "any backbone of timm"),
        ("towers", "timm", "any backbone of timm"),
        ("experiment", "flickr8k_transfer", "Flickr8k with pretrained towers"),  # of a study
    ],
)
def test_ls_takes_the_name_of_a_group(group, option, comment, tmp_path):
    lines = vlp("ls", group, cwd=tmp_path).stdout.splitlines()
    assert sum(line.split()[0] == option and comment in line for line in lines) == 1


def test_what_data_sets_share_is_no_choice_of_data(tmp_path):
    words = {line.split()[0] for line in vlp("ls", "data", cwd=tmp_path).stdout.splitlines()}
    assert "scenes" in words
    assert not words & {"loading", "default"}


def test_catalogues_of_downloads_are_listed(tmp_path):
    done = vlp("data", "download", "vqa_v2", "--list", cwd=tmp_path)
    assert done.returncode == 0
    assert "vqa/v2_OpenEnded_mscoco_train2014_questions.json" in done.stdout


def test_a_download_imports_nothing_heavy(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "{title: Mine, folder: mine, homepage: 'http://127.0.0.1:9', licence: CC0, parts: "
        "{words: {about: words, files: [{url: 'http://127.0.0.1:9/words.json'}]}}}"
    )
    done = vlp("data", "download", "mine.yaml", "--retries", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "127.0.0.1 cannot be reached" in done.stderr.splitlines()[-1]


def test_compare_reads_run_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "a" / "results.json").write_text('{"test/x/y_r1": 3.5}')
    done = vlp("compare", str(tmp_path), "--json")
    assert json.loads(done.stdout)[0]["figures"] == {"test/x/y_r1": [3.5, None]}


def test_train_and_evaluate_take_hydras_command_line(tmp_path):
    for command in ("train", "evaluate"):
        (tmp_path / f"{command}.yaml").write_text("name: tiny\nseed: 4\n")
        done = vlp(command, "--config-path", str(tmp_path), "--cfg", "job", "seed=5", cwd=tmp_path)
        assert "seed: 5" in done.stdout, done.stderr
        assert vlp(command, "--config-path", str(tmp_path), "sede=5", cwd=tmp_path).returncode == 2


def _options_with_several_values() -> list[tuple[str, str]]:
    """(command, option) of every option that takes a list."""
    commands = next(a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    return [
        (command, action.option_strings[0])
        for command, parser in commands.items()
        for action in parser._actions
        if action.option_strings and action.nargs in ("+", "*")
    ]


def test_an_option_that_takes_a_list_may_be_repeated():
    """The values of the first time are not lost."""
    needed = {"export": ["a.ckpt", "out"], "scenes": ["out"]}
    found = _options_with_several_values()
    assert ("export", "--gate") in found
    for command, option in found:
        words = [command, *needed.get(command, []), option, "one", option, "two"]
        options = cli.build_parser().parse_args(words)
        assert getattr(options, option.lstrip("-").replace("-", "_")) == ["one", "two"], (command, option)
