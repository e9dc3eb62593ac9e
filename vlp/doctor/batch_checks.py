"""Batch ÷ processes ÷ queue, epochs, warm-up, shards, time to the end: what numbers alone decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from vlp.doctor.finding import Finding, error, fine, warning
from vlp.launch.config.layout import ENDLESS, accumulated_batches, batch_sizes, source_key, sources, total_steps
from vlp.system.units import readable_duration

DAYS = 7 * 86_400  # seconds; a longer run is worth a second check


def batch(config: dict[str, Any], world: int, samples: Mapping[str, int], in_batch: Sequence[str]) -> Iterator[Finding]:
    """samples: of each source's training split.  in_batch: objectives whose negatives are the batch."""
    for name, whole in batch_sizes(config).items():
        setting, own = source_key(config, name, "batch_size"), whole // world
        if whole % world:
            fix = f"vlp train {setting}={max(1, round(whole / world)) * world}"
            yield error("arithmetic.batch", f"{setting}={whole} is not divisible by {world} processes", fix)
        elif 0 < samples.get(name, whole) < whole:
            fix = f"vlp train {setting}={max(1, samples[name] // world) * world}"
            told = f"{setting}={whole} is more than {name}'s {samples[name]} training samples: there is no step"
            yield error("arithmetic.batch", told, fix)
        elif whole == 1 and in_batch:
            told = f"{', '.join(in_batch)} has no negatives in a batch of 1"
            yield error("arithmetic.batch", told, f"vlp train {setting}=128")
        elif own == 1 and in_batch:
            told = f"{setting}={whole} leaves each of {world} processes one sample for {', '.join(in_batch)}"
            yield warning("arithmetic.batch", told, f"vlp train {setting}={32 * world}")
        else:
            yield fine("arithmetic.batch", f"{name}: {whole} samples a step, {own} of each process")


def queue(config: dict[str, Any], samples: Mapping[str, int]) -> Iterator[Finding]:
    """A queue as long as the data holds older features of the batch's own images."""
    count = sum(samples.values())
    for name, node in (config.get("objectives") or {}).items():
        length = int((node or {}).get("queue_size") or 0)
        if not length:
            continue
        setting = f"objectives.{name}.queue_size"
        if count and length >= count:
            told = (
                f"{setting}={length} holds every one of the {count} training samples: its images come back as negatives"
            )
            yield warning("arithmetic.queue", told, f"vlp train {setting}={max(1, count // 4)}")
        else:
            yield fine("arithmetic.queue", f"{setting}={length} of {count} training samples")


def accumulation(config: dict[str, Any], in_batch: Sequence[str]) -> Finding:
    parts = accumulated_batches(config)
    if parts > 1 and in_batch:
        name, whole = next(iter(batch_sizes(config).items()))
        fix = (
            f"vlp train trainer.accumulate_grad_batches=1 {source_key(config, name, 'batch_size')}={whole * parts} "
            f"gradient_cache={whole}"
        )
        told = f"accumulating {parts} batches does not give {', '.join(in_batch)} the negatives of the large batch"
        return error("arithmetic.accumulation", told, fix)
    return fine("arithmetic.accumulation", f"{parts} batches a step")


def warmup(config: dict[str, Any], total: int) -> Finding:
    asked = float((config.get("schedule") or {}).get("warmup") or 0)
    steps = round(asked * total) if asked < 1 else int(asked)
    if steps >= total:
        told = f"schedule.warmup={asked:g} is as long as the training of {total} steps: the peak is never reached"
        return error("arithmetic.warmup", told, "vlp train schedule.warmup=0.1")
    return fine("arithmetic.warmup", f"{steps} of {total} steps")


def log_interval(config: dict[str, Any], total: int) -> Finding:
    every = int(config["trainer"].get("log_every_n_steps") or 50)
    if every > total:
        told = f"a figure every {every} steps, and the training has {total}: no loss would be logged"
        return warning("arithmetic.log_interval", told, f"vlp train trainer.log_every_n_steps={max(1, total // 10)}")
    return fine("arithmetic.log_interval", f"every {every} of {total} steps")


def shards(config: dict[str, Any], world: int, counts: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    """counts: of each source in shards, its training shards and its training samples."""
    for name, (found, samples) in counts.items():
        workers = int(sources(config)[name].get("num_workers") or 0)
        readers = max(1, workers) * world
        told = f"{name}: {found} training shards for {readers} readers ({max(1, workers)} workers × {world} processes)"
        if found < readers:
            fix = f"vlp data pack OUT data=… --samples {max(1, samples // (4 * readers))}"
            if found >= world:
                fix = f"vlp train {source_key(config, name, 'num_workers')}={found // world}    # or: {fix}"
            yield warning("arithmetic.shards", f"{told}: several readers share a shard and read all of it", fix)
        else:
            yield fine("arithmetic.shards", told)


def finish(config: dict[str, Any], facts: dict[str, Any]) -> Finding:
    """How long the run will take: a few real steps and validation batches, timed and scaled up.

    facts: {"seconds": of each full step, "per_epoch": steps, "val_seconds": of a batch, "val_batches"}.
    """
    steps = total_steps(config, facts["per_epoch"])
    if steps == ENDLESS:
        fix = f"vlp train trainer.max_steps={10 * max(1, facts['per_epoch'])}"
        return error("time.finish", "trainer.max_epochs=-1 has no end, which the schedule needs", fix)
    one, whole = typical(facts["seconds"]), facts["val_seconds"] * facts["val_batches"]
    limit = config["trainer"].get("limit_train_batches")
    per_epoch = min(facts["per_epoch"], limit) if isinstance(limit, int) else int(facts["per_epoch"] * (limit or 1))
    parts = accumulated_batches(config)  # what was timed is one batch
    validations = max(1, round(steps * parts / max(1, per_epoch)))
    every = int(config["trainer"].get("check_val_every_n_epoch") or 1)
    left = one * parts * steps + whole * (validations // every)
    told = (
        f"{readable_duration(one)} a step, {readable_duration(one * per_epoch)} an epoch of {per_epoch} steps, "
        f"{readable_duration(whole)} a validation: {readable_duration(left)} to finish ({len(facts['seconds'])} steps of one "
        "process alone were timed)"
    )
    if left > DAYS:
        return warning("time.finish", told, f"vlp train trainer.max_steps={max(1, int(DAYS / one))}")
    return fine("time.finish", told)


def typical(seconds: Sequence[float]) -> float:
    """The median, without the first where there are others: it warms up."""
    return median(seconds[1:] or seconds)
