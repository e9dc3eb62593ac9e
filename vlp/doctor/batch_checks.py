"""Batch ÷ processes ÷ queue, epochs, warm-up, shards, time to the end: what numbers alone decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from vlp.data.mixture_shares import sizes_by_temperature
from vlp.doctor.finding import Finding, error, fine_finding, warning
from vlp.launch.config.layout import ENDLESS, accumulated_batches, batch_sizes, source_key, sources, total_steps
from vlp.system.units import readable_duration

DAYS = 7 * 86_400  # seconds; a longer run is worth a second check


def check_batch(
    config: dict[str, Any], world: int, samples: Mapping[str, int], in_batch: Sequence[str]
) -> Iterator[Finding]:
    """samples: of each source's training split.  in_batch: objectives whose negatives are the batch."""
    sizes, temperature = batch_sizes(config), config["data"].get("temperature")
    if temperature is not None and samples.keys() == sizes.keys() and all(samples.values()):
        sizes = sizes_by_temperature(int(config["data"]["batch_size"]), samples, temperature)
    for name, global_batch in sizes.items():
        setting, own = source_key(config, name, "batch_size"), global_batch // world
        if global_batch % world:
            fix = f"vlp train {setting}={max(1, round(global_batch / world)) * world}"
            yield error("arithmetic.batch", f"{setting}={global_batch} is not divisible by {world} processes", fix)
        elif 0 < samples.get(name, global_batch) < global_batch:
            fix = f"vlp train {setting}={max(1, samples[name] // world) * world}"
            message = (
                f"{setting}={global_batch} is more than {name}'s {samples[name]} training samples: there is no step"
            )
            yield error("arithmetic.batch", message, fix)
        elif global_batch == 1 and in_batch:
            message = f"{', '.join(in_batch)} has no negatives in a batch of 1"
            yield error("arithmetic.batch", message, f"vlp train {setting}=128")
        elif own == 1 and in_batch:
            message = f"{setting}={global_batch} leaves each of {world} processes one sample for {', '.join(in_batch)}"
            yield warning("arithmetic.batch", message, f"vlp train {setting}={32 * world}")
        else:
            yield fine_finding("arithmetic.batch", f"{name}: {global_batch} samples a step, {own} of each process")


def check_queue(config: dict[str, Any], samples: Mapping[str, int]) -> Iterator[Finding]:
    """A queue as long as the data holds older features of the batch's own images."""
    count = sum(samples.values())
    for name, node in (config.get("objectives") or {}).items():
        length = int((node or {}).get("queue_size") or 0)
        if not length:
            continue
        setting = f"objectives.{name}.queue_size"
        if count and length >= count:
            message = (
                f"{setting}={length} holds every one of the {count} training samples: its images come back as negatives"
            )
            yield warning("arithmetic.queue", message, f"vlp train {setting}={max(1, count // 4)}")
        else:
            yield fine_finding("arithmetic.queue", f"{setting}={length} of {count} training samples")


def check_accumulation(config: dict[str, Any], in_batch: Sequence[str]) -> Finding:
    parts = accumulated_batches(config)
    if parts > 1 and in_batch:
        name, global_batch = next(iter(batch_sizes(config).items()))
        fix = (
            f"vlp train trainer.accumulate_grad_batches=1 {source_key(config, name, 'batch_size')}={global_batch * parts} "
            f"gradient_cache={global_batch}"
        )
        message = f"accumulating {parts} batches does not give {', '.join(in_batch)} the negatives of the large batch"
        return error("arithmetic.accumulation", message, fix)
    return fine_finding("arithmetic.accumulation", f"{parts} batches a step")


def check_batch_norms(config: dict[str, Any], world: int, names: list[str]) -> Finding:
    """names: of the batch norms whose statistics are of each process's own rows."""
    if world == 1 or not names:
        return fine_finding("arithmetic.batch_norm", "several processes compute what one computes")
    synchronized = bool(config["trainer"].get("sync_batchnorm"))
    fix = "vlp train model/vision=vit_tiny" if synchronized else "vlp train trainer.sync_batchnorm=true"
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    message = f"batch norms compute statistics of each process's own rows, {world} processes train another model than one: {listed}"
    return warning("arithmetic.batch_norm", message, fix)


def check_warmup(config: dict[str, Any], total: int) -> Finding:
    asked = float((config.get("schedule") or {}).get("warmup") or 0)
    steps = round(asked * total) if asked < 1 else int(asked)
    if steps >= total:
        message = f"schedule.warmup={asked:g} is as long as the training of {total} steps: the peak is never reached"
        return error("arithmetic.warmup", message, "vlp train schedule.warmup=0.1")
    return fine_finding("arithmetic.warmup", f"{steps} of {total} steps")


def check_log_interval(config: dict[str, Any], total: int) -> Finding:
    every = int(config["trainer"].get("log_every_n_steps") or 50)
    if every > total:
        message = f"a figure every {every} steps, and the training has {total}: no loss would be logged"
        return warning("arithmetic.log_interval", message, f"vlp train trainer.log_every_n_steps={max(1, total // 10)}")
    return fine_finding("arithmetic.log_interval", f"every {every} of {total} steps")


def check_shards(config: dict[str, Any], world: int, counts: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    """counts: of each source in shards, its training shards and its training samples."""
    for name, (found, samples) in counts.items():
        workers = int(sources(config)[name].get("num_workers") or 0)
        readers = max(1, workers) * world
        message = (
            f"{name}: {found} training shards for {readers} readers ({max(1, workers)} workers × {world} processes)"
        )
        if found < readers:
            fix = f"vlp data pack OUT data=… --samples {max(1, samples // (4 * readers))}"
            if found >= world:
                fix = f"vlp train {source_key(config, name, 'num_workers')}={found // world}    # or: {fix}"
            yield warning("arithmetic.shards", f"{message}: several readers share a shard and read all of it", fix)
        else:
            yield fine_finding("arithmetic.shards", message)


def estimate_duration(config: dict[str, Any], facts: dict[str, Any]) -> Finding:
    """How long the run will take: a few real steps and validation batches, timed and scaled up.

    facts: {"seconds": of each full step, "per_epoch": steps, "val_seconds": of a batch, "val_batches"}.
    """
    steps = total_steps(config, facts["per_epoch"])
    if steps == ENDLESS:
        fix = f"vlp train trainer.max_steps={10 * max(1, facts['per_epoch'])}"
        return error("time.finish", "trainer.max_epochs=-1 has no end, which the schedule needs", fix)
    one, validation = median_seconds(facts["seconds"]), facts["val_seconds"] * facts["val_batches"]
    limit = config["trainer"].get("limit_train_batches")
    per_epoch = min(facts["per_epoch"], limit) if isinstance(limit, int) else int(facts["per_epoch"] * (limit or 1))
    parts = accumulated_batches(config)  # what was timed is one batch
    validations = max(1, round(steps * parts / max(1, per_epoch)))
    every = int(config["trainer"].get("check_val_every_n_epoch") or 1)
    left = one * parts * steps + validation * (validations // every)
    message = (
        f"{readable_duration(one)} a step, {readable_duration(one * per_epoch)} an epoch of {per_epoch} steps, "
        f"{readable_duration(validation)} a validation: {readable_duration(left)} to finish ({len(facts['seconds'])} steps of one "
        "process alone were timed)"
    )
    if left > DAYS:
        return warning("time.finish", message, f"vlp train trainer.max_steps={max(1, int(DAYS / one))}")
    return fine_finding("time.finish", message)


def median_seconds(seconds: Sequence[float]) -> float:
    """The median, without the first where there are others: it warms up."""
    return median(seconds[1:] or seconds)
