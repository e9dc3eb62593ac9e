"""A small conf/ tree, and a stand-in for the modules that train and evaluate: the launcher is tested without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.sweep.stand_in_sweeps import launch  # noqa: F401 - a fixture

REPOSITORY = Path(__file__).parents[2]

CONF = {
    "train.yaml": """\
        defaults:
          - _self_
          - model: clip
          - objective: [itc]
          - optimizer: adamw
          - experiment: null
        name: scenes
        seed: 0
        runs: runs
        checkpoint: null
        resume: null
        sweep: {jobs: 1}
        trainer: {_target_: parts.Trainer, max_epochs: 3, precision: "32", devices: auto, check: true}
        data: {batch_size: 8, num_workers: 0, root: here, sizes: [1, 2], extra: {}, steps: 1.0}
        folder: ${hydra:runtime.output_dir}
        """,
    "evaluate.yaml": "defaults: [_self_]\nname: evaluate\nseed: 0\ncheckpoint: ???\nruns: runs\n",
    "model/clip.yaml": """\
        # Two towers.
        defaults: [{vision: vit}]
        _target_: parts.Model
        """,
    "model/wide.yaml": "defaults: [clip]\n",
    "model/vision/vit.yaml": "_target_: parts.Tower\nwidth: 64\n",
    "model/vision/resnet.yaml": "_target_: parts.Tower\nwidth: 32\n",
    "objective/itc.yaml": "# @package objectives.itc\n# Symmetric InfoNCE.\nweight: 1.0\n",
    "objective/siglip.yaml": "# @package objectives.siglip\nweight: 1.0\n",
    "optimizer/adamw.yaml": "_target_: torch.optim.AdamW\nlr: 0.001\nbetas: [0.9, 0.98]\nweight_decay: 0.2\n",
    "experiment/small.yaml": """\
        # @package _global_
        defaults: [{override /model/vision: resnet}]
        name: small
        optimizer: {lr: 0.1}
        """,
    "experiment/without.yaml": "# @package _global_\noptimizer: null\n",
    "experiment/nested.yaml": "# @package _global_\ndefaults: [{override /experiment: small}]\n",
    "experiment/typo.yaml": "# @package _global_\noptimzer: {lr: 0.1}\n",
    "experiment/deep.yaml": "# @package _global_\noptimizer: {lrr: 0.1}\n",
    "experiment/kind.yaml": "# @package _global_\ndata: {batch_size: many}\n",
    "experiment/broken.yaml": "# @package _global_\nname: [unclosed\nseed: 1\n",
}

PARTS = """\
raise ImportError("the launcher reads sources, it does not import them")

class Tower:
    def __init__(self, *, width: int) -> None: ...

class Model:
    def __init__(self, *, vision: Tower, freeze: list[str] = ()) -> None: ...

class Trainer(Model):
    def __init__(self, *, max_epochs: int, precision: str, devices: str, check: bool | int, fast_dev_run=False): ...
"""

RUN = """\
import json, os, signal, sys, time
from pathlib import Path
from omegaconf import OmegaConf
file = Path(sys.argv[1])
config = OmegaConf.load(file)
assert Path(config.folder).resolve() == file.parent.resolve() if "folder" in config else True
behaviour = str(config.get("data", {}).get("root", ""))
if behaviour == "fail" or (behaviour == "fail_odd" and config.seed % 2):
    sys.exit(7)
if behaviour == "wait":
    (file.parent / "started").touch()
    time.sleep(60)
figures = {"test/scenes/retrieval/image_to_text_r1": 50.0 + config.seed, "seconds": 1.0}
(file.parent / "results.json").write_text(json.dumps(figures))
print("ran", file, os.environ.get("WANDB_API_KEY", ""), flush=True)
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """conf/ below tmp_path/project, with runnable stand-ins for vlp.training beside it."""
    from textwrap import dedent

    folder = tmp_path / "project" / "tree"
    for name, text in CONF.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
    return folder


@pytest.fixture
def vlp(conf: Path, tmp_path: Path):
    """Runs `train` or `evaluate` in a process of its own; `.folder` is where it runs."""
    # The launcher's process module is replaced at its only joint: the name of the module that it starts.
    start = tmp_path / "start.py"
    start.write_text(
        "import sys\nfrom vlp.launch import process\n"
        "process.MODULES.update(train='stand_in', evaluate='stand_in')\n"
        "from vlp.cli import run_hydra_command\n"
        "code = run_hydra_command(sys.argv[1], sys.argv[2:])\n"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)\nsys.exit(code)\n"
    )
    (tmp_path / "stand_in.py").write_text(RUN)
    (tmp_path / "parts.py").write_text(PARTS)

    def prepared(*arguments: str, **environment: str) -> dict:
        paths = os.pathsep.join([str(REPOSITORY), str(tmp_path)])
        command, *rest = arguments
        return {
            "args": [sys.executable, str(start), command, "--config-path", str(conf), *rest],
            "cwd": conf.parent,
            "env": {**os.environ, "PYTHONPATH": paths, "COLUMNS": "160", **environment},
            "text": True,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(**prepared(*arguments, **environment), timeout=120)

    run.prepared = prepared
    run.folder = conf.parent
    return run
