import csv
import json
from pathlib import Path

import pytest
import yaml

from vlp.launch.config.errors import ConfigError
from vlp.launch.runs.compare import compare
from vlp.system.errors import UserError

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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"data": {"root": "/data/a1"}}, {"data": {"root": "/data/b1"}}),  # begin as the run folders a and b are called
        ({"callbacks": {"ema": {"decay": 0.9}}}, {"callbacks": {"ema": {"decay": 0.99}}}),
        ({"callbacks": {"early_stopping": {"patience": 1}}}, {"callbacks": {"early_stopping": {"patience": 9}}}),
        ({"monitor": "val/scenes/retrieval/rsum"}, {"monitor": "val/scenes/itc/loss"}),
    ],
)
def test_runs_that_differ_in_what_changes_a_figure_are_rows_of_their_own(tmp_path, capsys, one, other):
    for name, settings, figure in (("a", one, 40.0), ("b", other, 60.0)):
        run(tmp_path / name, {"seed": 0, **settings}, {R1: figure})
    compare([tmp_path], metrics=[R1], as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["figures"][R1][0] for row in rows] == [40.0, 60.0]
    assert all(row["settings"] and not row["repeats"] for row in rows)


def test_paths_in_a_run_folder_that_was_moved_are_no_settings(tmp_path, capsys):
    for name in ("first", "second"):
        folder = run(tmp_path / "then" / name, {"seed": name}, {R1: 40.0})
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(f"# train.py\n# run folder: {folder}, seen from: /somewhere\n{text}")
    (tmp_path / "then").rename(tmp_path / "now")
    compare([tmp_path], as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert len(row["runs"]) == 2


def test_the_newest_run_of_a_seed_counts_wherever_it_lies(tmp_path, capsys):
    for name, figure, time in (("a", 60.0, 2000.0), ("b", 40.0, 1000.0)):
        folder = run(tmp_path / name, {"seed": 0}, {R1: figure})
        (folder / "metrics.jsonl").write_text(f'{{"time": 1.0}}\n{{"time": {time}, "{R1}": {figure}}}\n')
    compare([tmp_path], as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["figures"][R1][0] == 60.0


@pytest.mark.parametrize("text", ['{"a/b": NaN}', '{"a/b": 1' + 400 * "0" + "}", "[]", '{"a/b": -Infinity}'])
def test_what_is_no_figure_is_refused_with_the_folder(tmp_path, text):
    folder = run(tmp_path / "a", {"seed": 0}, {})
    (folder / "results.json").write_text(text)
    with pytest.raises(ConfigError, match=r"a: config\.yaml or results\.json is not readable"):
        compare([tmp_path])
    (folder / "results.json").unlink()
    (folder / "config.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match=r"config\.yaml has no keys"):
        compare([tmp_path])


def test_a_file_of_a_run_is_not_written_over(runs, tmp_path):
    results = runs / "single" / "results.json"
    before = results.read_text()
    for target in (results, runs / "single" / "config.yaml", runs / "single"):
        with pytest.raises(UserError, match=r"exists and is no \.csv file"):
            compare([runs], csv_file=target)
    assert results.read_text() == before
    for _ in range(2):  # its own file may be written again
        compare([runs], csv_file=tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ema", {"_target_": "vlp.training.callbacks.ema.ema", "decay": 0.9}),
        ("early_stopping", {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "patience": 1}),
        ("mine", {"_target_": "mine.Callback"}),
    ],
)
def test_a_callback_that_changes_what_is_measured_makes_another_row(tmp_path, capsys, key, value):
    """Not a repeat of the same seed, of which only one would count."""
    callbacks = {"checkpoint": {"every_n_epochs": 1}}
    for seed in (0, 1):
        run(tmp_path / f"plain/{seed}", {"seed": seed, "callbacks": callbacks}, {R1: 40.0 + seed})
        run(tmp_path / f"{key}/{seed}", {"seed": seed, "callbacks": {**callbacks, key: value}}, {R1: 60.0 + seed})
    compare([tmp_path], as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert sorted(len(row["runs"]) for row in rows) == [2, 2]


def test_the_monitor_selects_what_is_measured(tmp_path, capsys):
    for monitor in ("val/scenes/retrieval/rsum", "val/scenes/retrieval/image_to_text_r1"):
        callbacks = {"checkpoint": {"monitor": monitor}, "progress": {"monitor": monitor}}
        run(tmp_path / monitor[-4:], {"seed": 0, "monitor": monitor, "callbacks": callbacks}, {R1: 40.0})
    compare([tmp_path], as_json=True)
    (first, second) = json.loads(capsys.readouterr().out)
    assert first["settings"].keys() == second["settings"].keys() == {"monitor"}


def test_a_callback_that_only_writes_makes_no_other_row(tmp_path, capsys):
    for seed, name in enumerate(("pictures", "baseline", "progress")):
        run(tmp_path / name, {"seed": seed, "callbacks": {name: {"_target_": name}}}, {R1: 40.0})
    compare([tmp_path], as_json=True)
    assert len(json.loads(capsys.readouterr().out)) == 1
