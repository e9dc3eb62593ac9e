"""`train` and `evaluate` in processes of their own: what they print, their exit codes, and the run folder."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vlp.launch.runs.folder import read_frozen_config

MISTAKES = {
    "modle.lr=1": "did you mean optimizer.lr",
    "lr=1": "did you mean optimizer.lr",
    "+modle.lr=1": "did you mean optimizer.lr",
    "++modle.lr=1": "did you mean optimizer.lr",
    "+optimizer.lrr=1": "did you mean lr",
    "++optimizer.lrr=1": "did you mean lr",
    "optimizer.lrr=1": "did you mean optimizer.lr",
    "+trainer.fast_dev_rum=true": "did you mean fast_dev_run",
    "trainer.fast_dev_run=true": "write +trainer.fast_dev_run=true",
    "optimzer=adamw": "did you mean optimizer",
    "model=clpi": "did you mean clip",
    "experiment=smal": "did you mean small",
    "objective=[itx]": "did you mean itc? Options of objective: itc, siglip",
    "model=wdie": "did you mean wide",
    "objective=[sgl]": "did you mean siglip",
    "modle/vision=vit": "did you mean model/vision",
    "model.vision=resnet": "write model/vision=resnet",
    "~optimizer.lrr": "did you mean optimizer.lr",
    "optimizer.lr=abc": "expects a float such as 0.001 (conf/optimizer/adamw.yaml), got 'abc'",
    "optimizer.lr=true": "expects a float",
    "data.batch_size=1.5": "expects an integer such as 8",
    "data.batch_size=0": "expects a number above 0",
    "data.batch_size=-1": "expects a number above 0",
    "data.num_workers=-1": "expects 0 or more",
    "data.sizes=3": "expects a list such as data.sizes=[3]",
    "data=3": "data is a group of settings",
    "trainer.check=yes_please": "expects true or false such as true",
    "optimizer.lr=1e-4,3e-4": "add -m",
    "data.root=${nothing}": "data.root: the interpolation ${nothing} cannot be resolved",
    "data.root=${data.root}": "data.root",
    "data.root=${": "data.root",
    "data.root='a b": "quote",
    "plain": "quote",
    "data={batch_size: x}": "expects an integer such as 8",
    "optimizer={lrr: 1}": "did you mean optimizer.lr",
    "+new={lr: 1}": "there is no new",
    "+data.batch_sizes=[1]": "did you mean data.batch_size",
    "experiment=typo": "conf/experiment/typo.yaml: optimzer.lr: there is no optimzer.lr",
    "experiment=deep": "did you mean lr",
    "experiment=kind": "conf/experiment/kind.yaml: data.batch_size: expects an integer such as 8",
    "experiment=broken": "broken.yaml, line 3",
    "checkpoint=gone.ckpt": "checkpoint=gone.ckpt: there is no such file",
    "resume=gone.ckpt": "resume=gone.ckpt: there is no such file",
    "resume=": "the value is empty (an unset variable?)",
    "seed=-1": "expects an integer from 0 to 4294967295",
    "~optimizer": "optimizer: a run needs one, and the config has none: choose optimizer=NAME, of adamw",
    "experiment=without": "optimizer: a run needs one",
    "experiment=nested": "write '- /experiment/small'",
    "hydra.run.dir=x": "choose the run folder",
    "--config-dir=gone": "gone: no such config folder",
    "--nonsense": "--nonsense",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_sentence_with_the_fix_and_leaves_nothing_behind(vlp, mistake):
    done = vlp("train", mistake)
    assert done.returncode == 2, done.stderr
    assert MISTAKES[mistake] in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1000
    assert not (vlp.folder / "runs").exists()


def test_the_constructors_annotation_widens_what_yaml_shows(vlp):
    assert vlp("train", "trainer.max_epochs=2.5").returncode == 2
    done = vlp("train", "trainer.check=3", "data.batch_size=4", "trainer.precision=16")
    assert done.returncode == 0, done.stderr
    (file,) = (vlp.folder / "runs").glob("*/*/config.yaml")
    assert (read_frozen_config(file).trainer.check, read_frozen_config(file).trainer.precision) == (3, "16")


def test_full_error_shows_the_traceback(vlp):
    assert "Traceback" in vlp("train", "modle.lr=1", HYDRA_FULL_ERROR="1").stderr


def test_a_mandatory_value_is_asked_for(vlp):
    done = vlp("evaluate")
    assert done.returncode == 2
    assert "set it with checkpoint=" in done.stderr


def test_run_starts_from_a_frozen_resolved_config(vlp):
    done = vlp("train", "experiment=small", "optimizer.lr=1", "data.root=2017", "+trainer.fast_dev_run=true")
    assert done.returncode == 0, done.stderr
    (file,) = (vlp.folder / "runs" / "small").glob("*/config.yaml")
    config = OmegaConf.to_container(read_frozen_config(file), resolve=False)
    assert config["optimizer"]["lr"] == 1
    assert config["model"]["vision"]["width"] == 32
    assert config["data"]["root"] == "2017"  # a folder's name stays text
    assert config["trainer"]["fast_dev_run"] is True
    assert config["folder"] == str(file.parent.relative_to(vlp.folder))
    assert "hydra" not in config
    assert "${" not in file.read_text()


ODD = ["a b", "it's", 'say "x"', "k=v", "a,b", "größe-画像", "[x]", "{y}", "back\\slash", "$HOME", "50%"]


@pytest.mark.parametrize("name", ODD)
def test_odd_paths_survive_when_quoted(vlp, name):
    (vlp.folder / name).mkdir()
    quoted = name.replace("\\", "\\").replace('"', '\\"')
    done = vlp("train", f'checkpoint="{quoted}"')
    assert done.returncode == 0, done.stderr
    (file,) = (vlp.folder / "runs").glob("*/*/config.yaml")
    assert read_frozen_config(file).checkpoint == name


def test_the_home_folder_is_meant_by_a_tilde(vlp):
    """Shells leave runs=~/mine as it is."""
    done = vlp("train", "runs=~/mine", HOME=str(vlp.folder / "home"))
    assert done.returncode == 0, done.stderr
    assert list((vlp.folder / "home" / "mine" / "scenes").glob("*/config.yaml"))
    assert not (vlp.folder / "~").exists()


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_files_of_the_run(vlp, streams):
    """A mistake keeps its exit code, and nothing else gets the numbers 0, 1 and 2."""
    program = (
        "import sys; from vlp.system.pipes import open_closed_streams; open_closed_streams(); "
        "number = open(sys.argv[1], 'w').fileno(); print('out'); print('error', file=sys.stderr); sys.exit(number)"
    )
    command = f"{shlex.join([sys.executable, '-c', program, str(vlp.folder / 'file')])} {streams}"
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "PYTHONPATH": os.getcwd()}, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode > 2, done.stderr
    assert (vlp.folder / "file").read_text() == ""


def test_text_that_looks_like_an_interpolation_is_read_back_as_it_was(vlp):
    assert vlp("train", r"data.root='\${seed}'").returncode == 0
    (file,) = (vlp.folder / "runs").glob("*/*/config.yaml")
    assert read_frozen_config(file).data.root == "${seed}"


def test_secrets_reach_the_run_but_not_the_disk(vlp, conf):
    (conf / "logger").mkdir()
    (conf / "logger" / "cloud.yaml").write_text("# @package logger\napi_key: ${oc.env:CLOUD_TOKEN}\ntoken: null\n")
    arguments = ("+logger=cloud", "logger.token=literal-5678")
    done = vlp("train", *arguments, CLOUD_TOKEN="from-env-1234")
    assert done.returncode == 0, done.stderr
    for file in (vlp.folder / "runs").rglob("*"):
        if file.is_file():
            assert "1234" not in file.read_text()
            assert "5678" not in file.read_text()
    shown = vlp("train", "--cfg", "job", "--resolve", *arguments, CLOUD_TOKEN="from-env-1234").stdout
    assert "api_key" in shown
    assert "1234" not in shown
    assert "5678" not in shown


def test_runs_of_the_same_second_get_their_own_folders(vlp):
    running = [subprocess.Popen(**vlp.prepared("train")) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(list((vlp.folder / "runs" / "scenes").iterdir())) == 3


def test_a_place_that_cannot_be_written_is_reported_before_the_run(vlp):
    (vlp.folder / "taken").write_text("a file")
    done = vlp("train", "runs=taken")
    assert done.returncode == 2
    assert "taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_resume_auto_takes_the_newest_unfinished_run_of_the_same_config(vlp):
    done = vlp("train", "resume=auto")
    assert done.returncode == 0
    assert "no unfinished run" in done.stderr
    (folder,) = (vlp.folder / "runs" / "scenes").iterdir()
    (folder / "results.json").unlink()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    assert vlp("train", "resume=auto", "seed=1").returncode == 0  # another config: another run
    assert len(list(folder.parent.iterdir())) == 2
    assert vlp("train", "resume=auto").returncode == 0
    assert len(list(folder.parent.iterdir())) == 2
    assert (folder / "results.json").exists()  # the run that had none went on in its folder


def test_hydras_questions_are_answered(vlp, conf, tmp_path):
    assert "lr: 0.001" in vlp("train", "--cfg", "job").stdout
    assert "lr: 0.5\n" in vlp("train", "optimizer.lr=0.5", "-c", "job", "-p", "optimizer").stdout
    assert "objective/itc" in vlp("train", "--info", "defaults-tree").stdout
    assert "model/vision: resnet, vit" in vlp("train", "--help").stdout
    assert "hydra" in vlp("train", "--hydra-help").stdout.lower()
    assert "checkpoint: ???" in vlp("train", "-cn", "evaluate", "--cfg", "job").stdout
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 9\n")
    assert "seed: 9" in vlp("train", "-cd", str(tmp_path / "mine"), "experiment=own", "--cfg", "job").stdout


def test_conf_of_the_working_folder_is_found(vlp):
    (vlp.folder / "conf" / "experiment").mkdir(parents=True)
    (vlp.folder / "conf" / "experiment" / "local.yaml").write_text("# @package _global_\nseed: 5\n")
    assert "seed: 5" in vlp("train", "experiment=local", "--cfg", "job").stdout


def ledger(folder: Path) -> dict:
    import json

    (file,) = folder.glob("runs/*/*/sweep.json")
    return json.loads(file.read_text())


def test_sweep_runs_every_combination_in_its_own_folder(vlp):
    done = vlp("train", "seed=1,2", "-m", "optimizer.lr=1e-4,3e-4")
    assert done.returncode == 0, done.stderr
    jobs = ledger(vlp.folder)["jobs"]
    assert [job["overrides"] for job in jobs] == [
        f"seed={seed} optimizer.lr={lr}" for seed in (1, 2) for lr in ("0.0001", "0.0003")
    ]
    assert len({job["folder"] for job in jobs}) == 4
    assert {job["status"] for job in jobs} == {"finished"}
    for job in jobs:
        config = read_frozen_config(vlp.folder / job["folder"] / "config.yaml")
        assert f"seed={config.seed} optimizer.lr={config.optimizer.lr}" == job["overrides"]
    assert "image_to_text_r1" in done.stdout
    assert "52" in done.stdout


def test_sweep_goes_on_after_a_failure_and_says_so(vlp):
    done = vlp("train", "-m", "seed=range(4)", "data.root=fail_odd", "sweep.jobs=2")
    assert done.returncode == 1
    assert [job["status"] for job in ledger(vlp.folder)["jobs"]] == ["finished", "failed"] * 2
    assert ledger(vlp.folder)["jobs"][1]["exit_code"] == 7
    assert "Traceback" not in done.stderr


def test_sweep_starts_nothing_when_one_job_is_wrong(vlp):
    done = vlp("train", "-m", "seed=1,2,x")
    assert done.returncode == 2
    assert "job 2 of 3" in done.stderr
    assert not (vlp.folder / "runs").exists()


def test_sweep_over_groups_and_globs(vlp):
    done = vlp("train", "-m", "model/vision=glob(*)", "objective=[itc],[siglip]", "data.root='a, b'")
    assert done.returncode == 0, done.stderr
    jobs = ledger(vlp.folder)["jobs"]
    assert len(jobs) == 4
    assert {read_frozen_config(vlp.folder / job["folder"] / "config.yaml").model.vision.width for job in jobs} == {
        32,
        64,
    }


def test_interrupted_sweep_stops_its_job_and_starts_no_more(vlp):
    process = subprocess.Popen(**vlp.prepared("train", "-m", "seed=1,2", "data.root=wait"))
    deadline = time.monotonic() + 90
    while not list(vlp.folder.glob("runs/*/*/*/started")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 130
    assert [job["status"] for job in ledger(vlp.folder)["jobs"]] == ["stopped", "pending"]


def test_first_line_of_the_config_is_the_command(vlp):
    assert vlp("train", "data.root='a b'").returncode == 0
    (file,) = (vlp.folder / "runs").glob("*/*/config.yaml")
    command = shlex.split(file.read_text().splitlines()[0].removeprefix("# "))
    assert command == ["vlp", "train", "data.root='a b'"]


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_the_scripts_refuse_a_mistake_without_importing_torch(tmp_path, script):
    code = (
        f"import runpy, sys; sys.argv = ['{script}', 'sede=1']\ntry: runpy.run_path({script!r}, run_name='__main__')\n"
    )
    code += "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    root = Path(__file__).parents[2]
    if not (root / "conf" / script.replace(".py", ".yaml")).is_file():
        pytest.skip("no conf/ in this checkout")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.stdout.strip() == "2 False"
    assert "did you mean seed" in done.stderr
