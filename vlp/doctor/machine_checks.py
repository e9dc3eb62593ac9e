"""Devices, process groups, shared memory, open files, threads and disks, against what the config asks for."""

from __future__ import annotations

import os
import re
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vlp.doctor.finding import Finding, error, fine_finding, warning
from vlp.launch.config.layout import accelerator, local_processes, processes, source_key, sources, workers
from vlp.system.atomic import nearest_folder
from vlp.system.units import readable_bytes

AHEAD = 2  # batches that each worker of a DataLoader keeps ready (prefetch_factor)
CHECKPOINTS = 4  # best.ckpt, last.ckpt, previous.ckpt, and the one that is being written
TENSORS = 12  # of a batch that lie in shared memory, each with an open file


def check_devices(config: dict[str, Any], gpus: int, cores: int) -> Finding:
    asked, kind = local_processes(config, gpus), accelerator(config, gpus)
    if kind == "gpu":
        if not gpus:
            return error("machine.devices", "trainer.accelerator=gpu, and there is no GPU", "vlp train trainer=cpu")
        if asked > gpus:
            return error(
                "machine.devices",
                f"{asked} GPUs are asked for, {gpus} are present",
                f"vlp train trainer.devices={gpus}",
            )
        return fine_finding("machine.devices", f"{asked} of {gpus} GPUs")
    if asked > cores:
        return error(
            "machine.devices",
            f"{asked} processes are asked for, which share {cores} processors",
            f"vlp train trainer.devices={cores}",
        )
    return fine_finding("machine.devices", f"{asked} processes on {cores} processors")


def check_backend(config: dict[str, Any], gpus: int, available: list[str]) -> Finding:
    """available: the process group backends that this torch was built with."""
    if processes(config, gpus) == 1:
        return fine_finding("machine.backend", "one process needs none")
    strategy = config["trainer"].get("strategy")
    named = strategy.get("process_group_backend") if isinstance(strategy, dict) else None
    backend_name = named or ("nccl" if accelerator(config, gpus) == "gpu" else "gloo")
    if backend_name == "nccl" and accelerator(config, gpus) == "cpu":
        fix = "vlp train trainer.strategy.process_group_backend=gloo"
        return error("machine.backend", "nccl cannot join processes on a CPU", fix)
    if backend_name not in available:
        found = ", ".join(available) or "none"
        return error(
            "machine.backend", f"torch has no {backend_name} (it has {found})", "pip install --force-reinstall torch"
        )
    return fine_finding("machine.backend", backend_name)


def check_shared_memory(
    config: dict[str, Any], gpus: int, batch_bytes: int, folder: Path = Path("/dev/shm")
) -> Finding:
    """batch_bytes: of one process's training batch, as its workers hand it over."""
    count = workers(config) * local_processes(config, gpus)
    if not count or not folder.is_dir():
        return fine_finding(
            "machine.shared_memory", "no loading processes" if not count else f"no {folder} on this system"
        )
    need, free = count * AHEAD * batch_bytes, shutil.disk_usage(folder).free
    message = f"{count} loading processes keep {readable_bytes(need)} ready, {folder} has {readable_bytes(free)} free"
    if need > free:
        enough = max(0, int(free // max(1, AHEAD * batch_bytes * local_processes(config, gpus))))
        each = min(enough, workers(config) - 1) // len(sources(config))
        fix = " ".join(f"{source_key(config, name, 'num_workers')}={each}" for name in sources(config))
        return error("machine.shared_memory", message, f"vlp train {fix}")
    return fine_finding("machine.shared_memory", message)


def check_open_files(config: dict[str, Any], gpus: int) -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    need = 256 + workers(config) * AHEAD * TENSORS
    message = f"a process may open {limit} files, training opens up to about {need}"
    if limit != resource.RLIM_INFINITY and limit < need:
        return error("machine.open_files", message, f"ulimit -n {max(4096, need)}")
    return fine_finding("machine.open_files", message)


def check_threads(config: dict[str, Any], gpus: int, cores: int, used: int) -> Finding:
    """used: torch's threads in one process."""
    count = local_processes(config, gpus)
    message = f"{count} processes × {used} threads on {cores} processors"
    if count > 1 and accelerator(config, gpus) == "cpu" and count * used > cores:
        return warning("machine.threads", message, f"export OMP_NUM_THREADS={max(1, cores // count)}")
    return fine_finding("machine.threads", message)


def check_run_folder(parent: Path) -> Finding:
    """By making a folder there and taking it away: permissions do not tell of read-only file systems."""
    place = nearest_folder(parent)
    try:
        with tempfile.TemporaryDirectory(prefix=".vlp-doctor-", dir=place):
            return fine_finding("storage.run_folder", f"{place} can be written to")
    except OSError as problem:
        message = f"no run folder can be made in {parent}: {problem.strerror}"
        return error("storage.run_folder", message, "vlp train runs=$HOME/runs")


def check_disk(parent: Path, checkpoint_bytes: int) -> Finding:
    need, free = CHECKPOINTS * checkpoint_bytes, shutil.disk_usage(nearest_folder(parent)).free
    message = f"checkpoints need {readable_bytes(need)}, {nearest_folder(parent)} has {readable_bytes(free)} free"
    if need > free:
        return error("storage.disk", message, f"df -h {nearest_folder(parent)}; vlp train runs=/a/larger/disk/runs")
    return fine_finding("storage.disk", message)


def check_temporary_folder(parent: Path) -> Finding:
    """Lightning's own callbacks write a file to the temporary folder and move it: atomic on one file system only. A run's
    last.ckpt and best.ckpt do not go that way."""
    folder, place = Path(tempfile.gettempdir()), nearest_folder(parent)
    fix = f"mkdir -p {parent.absolute()}/.tmp && export TMPDIR={parent.absolute()}/.tmp"
    if os.stat(folder).st_dev == os.stat(place).st_dev:
        return fine_finding("storage.temporary", f"{folder} is on the run folder's file system")
    message = (
        f"{folder} is on another file system than {place}: last.ckpt and best.ckpt are safe, but what other callbacks save "
        "is broken when the run is killed meanwhile"
    )
    return warning("storage.temporary", message, fix)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory(files: Path = Path("/")) -> int:
    """Bytes that can still be had: what the kernel says, within the limit of the container."""
    lines = (files / "proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    group = files / "sys/fs/cgroup"
    try:
        limit, current = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # no group, or its limit is "max"
        return free
    return min(free, limit - current + (int(cached[1]) if cached else 0))
