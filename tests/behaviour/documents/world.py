"""A folder in which documented commands run: drawn data, weights and runs under the names that the pages use."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from tests import warm_python
from tests.behaviour.documents import blip_files, layouts
from tests.behaviour.documents.pages import ROOT
from tests.behaviour.documents.shorten import short_settings
from tests.checkpoints import detectron2_files
from tests.curation.download.conftest import Server
from tests.launch.sweep import fake_slurm
from tests.s3 import s3_server

PLACEHOLDERS = {
    "PHOTOS": "/data/flickr8k", "GROUP": "model/vision", "RUN": "runs/scenes/STAMP", "resume=FOLDER": "resume=runs/scenes/STAMP",
}  # fmt: skip
CLIP = "model=clip_vit_b32 data=coco_karpathy tokenizer=clip transform=clip"
ALBEF = (
    "model=albef objective=[itc,itm,mlm] task=[retrieval] transform=albef tokenizer=wordpiece tokenizer.vocabulary=vocab.txt "
    "model.vision.image_size=32 "
)
ALBEF += "model.vision.width=64 model.text.width=64 model.fusion.width=64"
# originals' files: the training whose weights are written in their format
WEIGHTS = {"ViT-B-32.pt": (CLIP, "openai"), "ALBEF.pth": (ALBEF, "albef")}
WEIGHTS["ViT-B-16.pt"] = (f"{CLIP.replace('b32', 'b16')} model.vision.width=768", "openai")  # ALBEF takes its tensors
# runs that a page's command is about, where these are not what the same command without arguments leaves
TRAININGS = {
    "runs/scenes": "",
    "runs/flickr8k_transfer": "experiment=flickr8k_transfer",
    "runs/albef_scenes": "experiment=albef_scenes",
    "runs/detection_scenes": "experiment=detection_scenes",
    "runs/detection_scenes_open": "experiment=detection_scenes_open",
    "runs/segmentation_scenes": "experiment=segmentation_scenes",
    "runs/bccd": "experiment=bccd data.root=data/bccd",
    "runs/detection_scenes_phrases": "experiment=detection_scenes_phrases",
    "runs/random_tower": "name=random_tower optimizer.lr=1e-30",
    "runs/label_lora": "experiment=label_lora",
    "runs/vcr_scenes": "experiment=vcr_scenes",
    "runs/dialogue_scenes": "experiment=dialogue_scenes",
    "runs/translation_scenes": "experiment=translation_scenes",
    "runs/coco": f"{CLIP} trainer=fsdp trainer.strategy.save_distributed_checkpoint=true",
}
SWEEP = "-m seed=1,2 optimizer.lr=1e-4,3e-4"
TIMEOUT = 500


class World:
    """folder: of drawn data and of what commands have made of it; each command runs in a folder of its own with links to these."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open = ExitStack()
        self.bin = folder / ".venv" / "bin"
        venv.create(folder / ".venv", with_pip=False, symlinks=True)
        self.address = folder / "interpreter"
        self.bin.joinpath("python").unlink()
        programs = {name: f'exec {Path(sys.executable).parent / name} "$@"' for name in ("zensical", "ruff", "mypy")}
        programs |= {name: f'exec {Path(sys.executable).parent / name} "$@"' for name in ("lint-imports", "codespell")}
        warm_python.install(self.bin, self.address, programs)
        (folder / ".venv" / ".ready").touch()  # for make: everything is installed
        (folder / "home").mkdir()
        self.server = warm_python.start(self.address, self.environment)
        layouts.write_layouts(folder / "data")
        layouts.write_table(folder / "photos")
        (folder / "runs").mkdir()
        for name in ("train.py", "evaluate.py", "experiments", "Makefile", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)
        warm_python.wait_until_ready(self.server)

    def close(self) -> None:
        self.open.close()
        warm_python.stop(self.server)

    @cached_property
    def environment(self) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("VLP_", "WANDB_", "SLURM_", "PYTEST_"))
        }
        return kept | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder / 'packages'}", "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1",
            "MY_KEY": "0" * 40, "NO_PROXY": "127.0.0.1,localhost", "MPLBACKEND": "agg",
        }  # fmt: skip

    def run(self, line: str, folder: Path, *appended: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One line in bash, exactly as it is written.  appended: arguments after its own, of whatever program it starts."""
        more = " ".join(shlex.quote(word) for word in appended)
        programs = "" if not more else "".join(
            f'{name}() {{ command {name} "$@" {more}; }}\n' for name in ("python", "vlp", "torchrun", "pip", "wandb")
        )  # fmt: skip
        process = subprocess.Popen(
            ["bash", "-c", f"{programs}{line}"], cwd=folder, env={**self.environment, "ARGS": more, **environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            out, errors = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(line, process.returncode, out, errors)

    # -- what a command needs -------------------------------------------------------------------------------------------

    def prepare(self, text: str, folder: Path) -> str:
        """Puts what a command or a Python block names into its folder; returns it with the reader's own paths in it."""
        for placeholder, value in PLACEHOLDERS.items():
            text = re.sub(rf"(?<![\w/]){placeholder}(?!\w)", value, text)
        created = re.match(r"vlp data pack (\S+)", text)
        for entry in (
            "data",
            "photos",
            "train.py",
            "evaluate.py",
            "experiments",
            "Makefile",
            "pyproject.toml",
            ".venv",
        ):
            (folder / entry).symlink_to(self.folder / entry)
        if re.search(r"data\.root=shards|s3://", text) and not created:
            (folder / "shards").symlink_to(self.shards)
        for number, name in enumerate(re.findall(r"(?<![\w/])[\w/]+\.(?:jpg|png)(?!\w)", text)):
            layouts.write_picture(folder / name, number)
        for name in layouts.INPUTS.keys() & set(text.split()):
            layouts.write_inputs(folder / name)
        for name in re.findall(r"[\w/-]*vocab\.txt", text):
            layouts.write_vocabulary(folder / name)
        for name in re.findall(r"(?<![\w/])[\w-]+\.pkl(?!\w)", text):
            detectron2_files.write_pickle(folder / name, {"model": detectron2_files.zoo_state()})
        for name in re.findall(r"(?<![\w/])[\w-]+\.pth?(?!\w)", text):
            (folder / name).symlink_to(self.weights(name))
        if re.search(r"flickr8k_transfer|albef_flickr8k|efficientnet_lite0|label_efficiency\.tower", text):
            self.packages  # noqa: B018  # made once
        if re.match(r"vlp (index|search) ", text):
            self.prepare_index(text, folder)
        text = self.prepare_runs(text, folder)
        text = re.sub(r"--nproc-per-node \d+", "--nproc-per-node 2", text)
        text = text.replace("https://server", self.web_address)
        return re.sub(r"(?<![\w/:])/(data|scratch|shared)/", lambda match: f"{self.folder}/{match[1]}/", text)

    def prepare_runs(self, text: str, folder: Path) -> str:
        if "sweep resume" in text:  # its jobs name their folders, so it is not copied
            (folder / "runs").symlink_to(self.sweep.parents[1])
            return text.replace("STAMP", self.sweep.name)
        (folder / "runs").mkdir()
        resumed = "resume" in text
        for parent in dict.fromkeys(re.findall(r"runs/\w+", text + (" runs/scenes" if "resume=auto" in text else ""))):
            source = self.stopped if resumed else self.trained(parent)
            (folder / parent).mkdir(exist_ok=True)
            shutil.copytree(source, folder / parent / source.name, symlinks=True)
            text = text.replace(f"{parent}/STAMP", f"{parent}/{source.name}")
        return text

    def prepare_index(self, text: str, folder: Path) -> None:
        """The artifact, and for commands that read one an index of the drawn photos or its parts."""
        (folder / "artifact").symlink_to(self.artifact)
        if text.startswith("vlp search") or re.search(r"--(errors|copies|again)", text):
            self.photo_index  # noqa: B018  # made once
        if "--parts parts" in text:
            shards = "vlp index --shards 'data/cc3m/{00000..00003}.tar' --out parts --engine artifact"
            assert self.run(shards, folder).returncode == 0

    @cached_property
    def artifact(self) -> Path:
        """What `vlp export` makes of the default training: towers of images and of texts."""
        run = self.trained("runs/scenes")
        done = self.run(f"vlp export {run} artifact --only image text", self.folder)
        assert done.returncode == 0, done.stderr
        return self.folder / "artifact"

    @cached_property
    def photo_index(self) -> None:
        done = self.run(f"vlp index photos --engine {self.artifact}", self.folder)
        assert done.returncode == 0, done.stderr

    @cached_property
    def packages(self) -> Path:
        layouts.write_pretrained_packages(self.folder / "packages")
        return self.folder / "packages"

    def trained(self, parent: str) -> Path:
        """The newest run below `runs/NAME`, of the training that leaves one."""
        if not (self.folder / parent).is_dir():
            self.train(TRAININGS[parent])
        return max((self.folder / parent).iterdir(), key=lambda run: run.name)

    def train(self, overrides: str, code: int = 0, **environment: str) -> None:
        words = [word for word in shlex.split(overrides) if "=" in word]
        if "flickr8k_transfer" in overrides:
            self.packages  # noqa: B018
        done = self.run(f"python train.py {overrides}", self.folder, *short_settings("train", words), **environment)
        assert done.returncode == code, (overrides, done.stdout[-2000:], done.stderr[-4000:])

    @cached_property
    def stopped(self) -> Path:
        """A run that a signal stopped after its first step."""
        folder = self.folder / "stopped"
        folder.mkdir()
        for entry in ("data", "train.py"):
            (folder / entry).symlink_to(self.folder / entry)
        done = self.run(
            "python train.py", folder, *short_settings("train", []), VLP_FAULTS="site=step,step=1,kind=sigterm"
        )
        assert done.returncode == 143, done.stderr
        return next((folder / "runs" / "scenes").iterdir())

    @cached_property
    def sweep(self) -> Path:
        """A sweep of which one job failed."""
        folder = self.folder / "sweep"
        folder.mkdir()
        for entry in ("data", "train.py"):
            (folder / entry).symlink_to(self.folder / entry)
        words = [word for word in SWEEP.split() if "=" in word]
        faults = f"site=step,step=1,kind=raise,once={folder / 'failed'}"
        done = self.run(f"python train.py {SWEEP}", folder, *short_settings("train", words), VLP_FAULTS=faults)
        assert done.returncode == 1, done.stderr
        return next((folder / "runs" / "scenes").iterdir())

    def weights(self, name: str) -> Path:
        file = self.folder / "weights" / name
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            if name.startswith("blip"):
                blip_files.write(file)
            else:
                overrides, layout = WEIGHTS[name]
                layouts.write_vocabulary(self.folder / "vocab.txt")
                self.train(f"{overrides} name={file.stem}")
                run = next((self.folder / "runs" / file.stem).iterdir())
                done = self.run(f"vlp convert {run} {file} --to {layout}", self.folder)
                assert done.returncode == 0, done.stderr
        return file

    @cached_property
    def shards(self) -> Path:
        done = self.run("vlp data pack shards data=coco_karpathy", self.folder)
        assert done.returncode == 0, done.stderr
        return self.folder / "shards"

    @cached_property
    def web_address(self) -> str:
        """A web server of the drawn data."""
        server = Server()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        self.open.callback(server.shutdown)
        for file in (self.folder / "data" / "cc3m").iterdir():
            server.put(f"/cc3m/{file.name}", file.read_bytes())
        return server.address

    @cached_property
    def bucket(self) -> dict[str, str]:
        return self.open.enter_context(s3_server(self.shards, bucket="bucket", prefix="folder/"))

    @cached_property
    def slurm(self) -> str:
        folder = self.folder / "slurm"
        folder.mkdir()
        return str(fake_slurm.install(folder)[0])


@contextmanager
def documented_world(folder: Path) -> Iterator[World]:
    world = World(folder)
    try:
        yield world
    finally:
        world.close()
