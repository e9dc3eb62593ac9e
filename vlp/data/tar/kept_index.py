"""The index of a shard, kept beside the fetched shards, as a tar has to be read through for it."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from vlp.data.tar.index import ShardIndex, read_index


def kept_index(path: Path, file: Path, stamp: list[int]) -> ShardIndex:
    """Read from `file` if that was made of a shard of the same stamp, else made, and kept there if it can be."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            if kept["stamp"].tolist() == stamp:
                told = json.loads(str(kept["told"]))
                return ShardIndex(kept["files"], told["images"], Counter(told["faults"]), told["examples"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none yet, or one that was cut off: it is made again
    index = read_index(path)
    told = {"images": index.images, "faults": dict(index.faults), "examples": index.examples}
    part = file.with_name(f"{file.name}.{os.getpid()}.part.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, stamp=np.array(stamp), files=index.files, told=np.array(json.dumps(told)))
        os.replace(part, file)
    except OSError:  # a folder that cannot be written to, or is full: the next process reads the tar itself
        part.unlink(missing_ok=True)
    return index
