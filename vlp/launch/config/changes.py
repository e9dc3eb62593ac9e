"""What differs between the config that a run began with and the one that it is to continue with.

Only what changes the numbers counts. How many processes, devices and workers there are, where data, runs and logs lie, and
how often something is printed or saved, may change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from vlp.system.secrets import SECRET

FREE = re.compile(
    r"^(name|runs|resume|force|sweep|loggers|monitor|compile|checkpoint|checkpoint_strict|teachers|teacher_folder|nonfinite\w*)(\.|$)"
    r"|^callbacks\.(checkpoint|progress|pictures|baseline|ranks_agree)(\.|$)"
    r"|^trainer\.(accelerator|devices|num_nodes|strategy|log_every_n_steps|limit_(val|test)_batches|num_sanity_val_steps"
    r"|check_val_every_n_epoch|val_check_interval|max_time|detect_anomaly|inference_mode|plugins|profiler|enable_\w+|deterministic|benchmark|fast_dev_run)(\.|$)"
    r"|\.(root|folder|dirpath|cache|num_workers|worker_restarts|timeout|eval_batch_size|max_bad_fraction|follow_symlinks|issues_path|decoder)$"
)


OF_A_RUN = re.compile(r"(checkpoint|monitor|teachers\..*|data\.(.*\.)?root)$")
# settings that configs of earlier versions lack: with these values, or with none (null, false, 0, empty), a run is what it was
ADDED = (
    (re.compile(r"^trainer\.sync_batchnorm$"), (True, False)),
    (re.compile(r"^data\.(.*\.)?names$"), ("words",)),
    (re.compile(r"^data\.(.*\.)?pairs$"), ("all",)),
    (re.compile(r"^tokenizer\.lowercase$"), (True,)),
    (re.compile(r"^optimizer\.iterations$"), ("bfloat16",)),
)
PARTS = re.compile(r"(model|objectives|tasks|data|tokenizer)\.")


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """ "key: old became new", of the keys that both have; a value of a part that was left open (null), for its file or its
    data to decide, says nothing."""
    before, after = dict(dotted_items(then)), dict(dotted_items(now))
    return [
        f"{key}: {before[key]} became {value}"
        for key, value in after.items()
        if key in before
        and before[key] != value
        and not (key.startswith("model.") and _are_close(before[key], value))
        and not (None in (before[key], value) and PARTS.match(key))
        and not FREE.search(key)
        and not SECRET.match(key.rpartition(".")[2])
    ]


def _are_close(one: Any, other: Any) -> bool:
    """Numbers, or lists of them, that differ by single precision, in which towers of earlier versions reported them."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(_are_close, one, other))
    return isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=1e-6)


def same_settings(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two frozen configs are of the same run: none has a part, or a setting with an effect, that the other lacks, and
    all that counts is equal, the place of the data too: in another folder may be other data."""
    sides = [
        {key: value for key, value in dotted_items(config) if not FREE.search(key) or OF_A_RUN.match(key)}
        for config in (one, other)
    ]
    one_side, other_side = (
        {key: value for key, value in own.items() if key in others or not _is_without_effect(key, value)}
        for own, others in (sides, sides[::-1])
    )
    return one_side == other_side


def _is_without_effect(key: str, value: Any) -> bool:
    """Of a setting that only one of two configs has."""
    return value in (None, False, [], {}) or any(name.match(key) and value in values for name, values in ADDED)


def dotted_items(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values. A list of numbers or texts is one value; one of parts is their number, and each part."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from dotted_items(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        yield path, f"{len(node)} parts"
        for index, item in enumerate(node):
            yield from dotted_items(item, f"{path}[{index}]")
    else:
        yield path, node
