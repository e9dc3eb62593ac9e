import csv
import json
from pathlib import Path

import pytest
import yaml

from vlp.launch.config.errors import ConfigError
from vlp.launch.runs.compare import compare

R1 = "test/scenes/retrieval/image_to_text_r1"


def run(folder: Path, config: dict, results: dict | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "out": f"{folder}/plots"}))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, figure in enumerate([50.0, 54.0]):
        run(
            tmp_path / f"sweep/{seed}",
            {"seed": seed, "optimizer": {"lr": 0.1}},
            {R1: figure, "seconds": 3, "commit": "ab"},
        )
    run(tmp_path / "single", {"seed": 0, "optimizer": {"lr": 0.2}}, {R1: 40.0, "seconds": 4})
    run(tmp_path / "cut_off", {"seed": 0, "optimizer": {"lr": 0.3}})
    return tmp_path


def test_seeds_are_averaged_and_only_differences_shown(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    compare([runs])
    text = capsys.readouterr().out
    assert "52 ± 2.8" in text  # mean and sample standard deviation of 50 and 54
    assert "2 of 2" in text
    assert "unfinished" in text
    assert "lr" in text
    assert " seed " not in text
    assert "plots" not in text


def test_a_seed_that_was_run_again_counts_once(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    config = {"seed": 1, "optimizer": {"lr": 0.1}}
    run(runs / "sweep/2", config, {R1: 56.0})
    run(runs / "sweep/3", config)
    compare([runs])
    text = " ".join(capsys.readouterr().out.split())
    assert "53 ± 4.2" in text
    assert "2 of 2" in text
    assert "2 older or unfinished runs of the same seed are not counted" in text


def test_a_narrow_terminal_shows_fewer_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for number in range(2):
        settings = {f"a_rather_long_setting_{n}": number for n in range(5)}
        run(tmp_path / str(number), {"seed": 0, **settings}, {R1: 50.0})
    compare([tmp_path])
    text = capsys.readouterr().out
    assert "a_rather_long_setting_0" in text
    assert "image_to_text_r1" in text
    assert "4 more settings differ" in text


def test_json_and_csv_hold_the_same_figures(runs, capsys, tmp_path):
    compare([runs], csv_file=tmp_path / "out.csv", as_json=True)
    rows = {row["settings"]["optimizer.lr"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[0.1]["figures"][R1] == [52.0, pytest.approx(2.8284, rel=1e-4)]
    assert rows[0.2]["figures"][R1] == [40.0, None]
    assert rows[0.3]["figures"] == {}
    with open(tmp_path / "out.csv") as stream:
        table = {row["optimizer.lr"]: row for row in csv.DictReader(stream)}
    assert table["0.1"][R1] == "52.0"
    assert (table["0.3"]["seeds"], table["0.3"]["finished"]) == ("1", "0")


def test_another_class_stands_for_its_arguments(tmp_path, capsys):
    run(tmp_path / "a", {"model": {"_target_": "x.Big", "width": 3, "inner": {"depth": 1}}}, {})
    run(tmp_path / "b", {"model": {"_target_": "x.Small", "size": 4}}, {})
    compare([tmp_path], as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["settings"] == {"model._target_": "x.Big"}


def test_chosen_metric_and_its_misspelling(runs, capsys):
    compare([runs / "single"], metrics=["second"], as_json=True)
    assert list(json.loads(capsys.readouterr().out)[0]["figures"]) == ["seconds"]
    with pytest.raises(ConfigError, match="did you mean seconds"):
        compare([runs], metrics=["secnods"])


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(ConfigError, match="gone"):
        compare([tmp_path / "gone"])
    with pytest.raises(ConfigError, match="no run in it"):
        compare([tmp_path])
    (run(tmp_path / "bad", {}, {}) / "results.json").write_text("{")
    with pytest.raises(ConfigError, match="bad"):
        compare([tmp_path])


def test_the_monitored_figure_comes_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monitor = "val/scenes/retrieval/rsum"
    for name, lr in (("a", 0.1), ("b", 0.2)):
        config = {"seed": 0, "optimizer": {"lr": lr}, "monitor": monitor}
        run(tmp_path / name, config, {R1: 40.0, "test/scenes/compositionality/accuracy": 71.0, monitor: 412.5 + lr})
    compare([tmp_path])
    text = capsys.readouterr().out
    header = next(line for line in text.splitlines() if "finished" in line)
    assert header.index("val rsum") < header.index("test accuracy") < header.index("test image_to_text_r1")
    assert "412.6" in text
    compare([tmp_path], metrics=["accuracy"])
    assert "rsum" not in capsys.readouterr().out
