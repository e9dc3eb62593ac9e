"""All checks of a command line, in the order of their cost. This process never imports torch: a broken one is a finding."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlp.doctor import batch_checks, data_checks, logging_checks, machine_checks, memory_estimate, package_checks
from vlp.doctor.finding import Finding, error, fine_finding, warning
from vlp.doctor.memory_estimate import MemoryEstimate
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.layout import accelerator, batch_sizes, local_processes, processes, source_key, total_steps
from vlp.launch.config.resolve import resolve_config
from vlp.launch.process import redact_overrides, training_process
from vlp.launch.runs.folder import freeze, parent_folder
from vlp.launch.runs.provenance import parts_of_checkpoint

STAGES = ("torch", "data", "model", "fit", "validation")
PROBE_GRACE_S = 3.0  # seconds beyond the limit until the probe is ended


def examine_command(overrides: Sequence[str], *, seconds: float = 30.0) -> list[Finding]:
    """Everything that is found about `vlp train OVERRIDES`. Leaves no run folder and no change of this process."""
    begin, environment = time.monotonic(), dict(os.environ)
    try:
        with tempfile.TemporaryDirectory(prefix="vlp-doctor-") as folder:
            try:
                composer = Composer(conf=conf_folder(), config_name="train", of_checkpoint=parts_of_checkpoint)
                config = resolve_config(composer.compose(list(overrides)), Path(folder))
            except ConfigError as problem:
                return [error("config.composes", str(problem), "vlp train --help")]
            found = [fine_finding("config.composes", "the overrides are understood"), *config_only_findings(config)]
            left = max(1.0, seconds - (time.monotonic() - begin))
            facts, ended = run_probe(config, Path(folder), left)
            found += findings_of_stages(config, facts, overrides)
            found += findings_of_failed_stages(config, facts, ended, seconds)
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return [Finding(f.check, f.severity, f.what, complete_command(f.fix, overrides)) for f in found]


def config_only_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """What needs neither torch nor data."""
    python, required = package_checks.version_bounds()
    yield package_checks.check_python(python)
    yield from package_checks.check_versions(required)
    yield from package_checks.check_optional_packages(config)
    yield machine_checks.check_run_folder(parent_folder(config))
    yield data_checks.check_context_length(config)


def run_probe(config: dict[str, Any], folder: Path, seconds: float) -> tuple[dict[str, Any], str]:
    """Facts by stage, and how the probe ended: its last words, or "" after a good end."""
    file, out, words = freeze(folder, config, "vlp doctor"), folder / "facts.jsonl", folder / "stderr.txt"
    arguments, environment = training_process("train", file)
    command = [arguments[0], "-m", "vlp.doctor.probe", str(file), str(out), str(seconds)]
    with words.open("wb") as stream:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            code: int | None = child.wait(seconds + PROBE_GRACE_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its loading processes too
            child.wait()
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    last = (words.read_text(errors="replace").strip().splitlines() or [""])[-1]
    ended = "" if code == 0 else "time" if code is None else f"{'killed' if code == -9 else last or code}"
    return {line.pop("stage"): line for line in lines}, ended


def findings_of_stages(config: dict[str, Any], facts: dict[str, Any], overrides: Sequence[str]) -> Iterator[Finding]:
    """Findings from the stages that gave facts."""
    if not _has_facts(facts, "torch"):
        return
    gpus, cores = facts["torch"]["gpus"], machine_checks.cores()
    world = processes(config, gpus)
    yield machine_checks.check_devices(config, gpus, cores)
    yield machine_checks.check_backend(config, gpus, facts["torch"]["backends"])
    yield machine_checks.check_open_files(config, gpus)
    yield machine_checks.check_threads(config, gpus, cores, facts["torch"]["threads"])
    yield logging_checks.check_wandb(config, facts["torch"]["wandb_key"])
    samples: dict[str, int] = {}
    in_batch = facts["model"]["in_batch"] if _has_facts(facts, "model") else []
    if _has_facts(facts, "data"):
        yield from data_checks.check_images(facts["data"], overrides)
        yield from data_checks.check_text_lengths(facts["data"], bool(config["tokenizer"].get("truncate", True)))
        yield from data_checks.splits(facts["data"], config)
        splits = facts["data"]["splits"]
        samples = {name.rpartition("/")[0]: s["samples"] for name, s in splits.items() if name.endswith("/train")}
        counts = {name: (count, samples[name]) for name, count in facts["data"]["shards"].items()}
        yield from batch_checks.check_shards(config, world, counts)
    yield from batch_checks.check_batch(config, world, samples, in_batch)
    yield from batch_checks.check_queue(config, samples)
    yield batch_checks.check_accumulation(config, in_batch)
    if _has_facts(facts, "model"):
        yield batch_checks.check_batch_norms(config, world, facts["model"]["own_statistics"])
    if samples:
        total = total_steps(config, _per_epoch(config, facts, samples))
        yield batch_checks.check_warmup(config, total)
        yield batch_checks.check_log_interval(config, total)
    yield logging_checks.check_monitor(
        config, facts["validation"]["figures"] if _has_facts(facts, "validation") else None
    )
    yield from findings_of_model(config, facts, gpus)


def findings_of_model(config: dict[str, Any], facts: dict[str, Any], gpus: int) -> Iterator[Finding]:
    """Storage, memory and time, which depend on how large the model is and on real steps."""
    if not _has_facts(facts, "model"):
        return
    taken = facts["fit"] if _has_facts(facts, "fit") else {"memory": facts["model"]["memory"], "rows": 1}
    needed = MemoryEstimate(**taken["memory"])
    checkpoint = needed.parameters + needed.optimizer + needed.copies
    yield machine_checks.check_disk(parent_folder(config), checkpoint)
    yield machine_checks.check_temporary_folder(parent_folder(config))
    local, free = local_processes(config, gpus), facts["torch"]["free"]
    device = "the GPU" if gpus and accelerator(config, gpus) == "gpu" else "memory"
    sharing = 1 if device == "the GPU" else local
    setting = source_key(config, next(iter(batch_sizes(config))), "batch_size")
    contrast = bool(facts["model"]["in_batch"])
    fix = memory_estimate.smaller_batch_command(
        config, taken, free, sharing, contrast, setting, processes(config, gpus)
    )
    yield memory_estimate.check_memory(taken, free, sharing, device, fix)
    if taken.get("seconds"):
        yield machine_checks.check_shared_memory(config, gpus, taken["batch_bytes"])
        yield memory_estimate.check_step_peak(needed, taken["peak"])
        timed = facts["validation"] if _has_facts(facts, "validation") else {}
        yield batch_checks.estimate_duration(config, taken | timed)


def findings_of_failed_stages(
    config: dict[str, Any], facts: dict[str, Any], ended: str, seconds: float
) -> Iterator[Finding]:
    """Stages that failed, and the one at which the probe stopped."""
    for name, found in facts.items():
        if "problem" in found:
            yield error(f"step.{name}", found["problem"], "vlp train trainer.fast_dev_run=true    # shows it in full")
    if ended == "time" and any(name not in facts for name in STAGES):
        first = next(name for name in STAGES if name not in facts)
        message = f"{first} was not finished within {seconds:g} seconds, what comes after it was not looked at"
        yield warning("step.taken", message, f"vlp doctor --seconds {seconds * 4:g}")
    elif ended == "killed":
        message = "the process that took a step was killed, as happens when the memory is used up"
        yield error(
            "step.taken", message, f"vlp train {source_key(config, next(iter(batch_sizes(config))), 'batch_size')}=16"
        )
    elif ended and ended != "time":
        yield error("step.taken", f"the trial step failed: {ended}", "vlp train trainer.fast_dev_run=true")
    elif _has_facts(facts, "fit") and facts["fit"]["seconds"]:
        yield fine_finding("step.taken", f"{len(facts['fit']['seconds'])} full steps on the config's own data")
    elif not any("problem" in found for found in facts.values()):
        yield warning("step.taken", "no full step was taken, for the reason above", "vlp doctor    # again, later")


def _has_facts(facts: dict[str, Any], stage: str) -> bool:
    return stage in facts and "problem" not in facts[stage]


def _per_epoch(config: dict[str, Any], facts: dict[str, Any], samples: dict[str, int]) -> int:
    """From the sampler where a step was taken, else by division."""
    if _has_facts(facts, "fit"):
        return int(facts["fit"]["per_epoch"])
    epoch = config["data"].get("epoch")
    if isinstance(epoch, int):
        return epoch
    name = epoch or next(iter(samples))
    return samples[name] // max(1, batch_sizes(config)[name])


def complete_command(fix: str, overrides: Sequence[str]) -> str:
    """`vlp train key=value` with the other overrides of the command line, so that it can be pasted."""
    overrides = redact_overrides(overrides)
    if fix.startswith("vlp train") and "--help" not in fix:
        command, _, comment = fix.removeprefix("vlp train").partition("    #")
        new = command.split()
        keys = {word.partition("=")[0].lstrip("+") for word in new}
        kept = [shlex.quote(word) for word in overrides if word.partition("=")[0].lstrip("+") not in keys]
        return " ".join(["vlp train", *kept, *new]) + (f"    #{comment}" if comment else "")
    if fix.startswith("vlp doctor"):
        return fix.replace("vlp doctor", shlex.join(["vlp", "doctor", *overrides]), 1)
    return fix
