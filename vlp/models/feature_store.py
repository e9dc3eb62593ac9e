"""Features of a frozen tower on disk, so that the next run on the same pictures or captions does not compute them again."""

from __future__ import annotations

import hashlib
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

_LOCK_TIMEOUT_S = 60.0  # seconds to wait for another process that writes


class FeatureStore:
    """A table of arrays in one SQLite file, `FOLDER/NAME.sqlite`; processes may share it.

    name: of everything that the features depend on but the input (`fingerprint`).  width, dtype: of the features' rows.
    A stored array is never changed: of two that are written under one key the first is kept.
    Where the file cannot be used there is one warning, and from then on nothing is read or written.
    """

    def __init__(self, folder: str | Path, name: str, *, width: int, dtype: torch.dtype) -> None:
        self.file, self.width, self.dtype = Path(folder) / f"{name}.sqlite", width, dtype
        self._usable = True

    @contextmanager
    def _catch_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._usable = False
            warnings.warn(
                f"{self.file} cannot be used ({error}): features are computed and not written to disk", stacklevel=4
            )

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.file, timeout=_LOCK_TIMEOUT_S)) as table, table:
            table.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
            yield table

    def read(self, keys: Iterable[bytes]) -> dict[bytes, Float[Tensor, "_ d"]]:
        """The stored features of these keys; absent keys are left out."""
        found: dict[bytes, Tensor] = {}
        row = self.width * self.dtype.itemsize
        if not self._usable:
            return found
        with self._catch_errors(), self._connect() as table:
            for key in keys:
                value = table.execute("SELECT value FROM features WHERE key = ?", (key,)).fetchone()
                if value is not None and value[0] and len(value[0]) % row == 0:
                    found[key] = torch.frombuffer(bytearray(value[0]), dtype=self.dtype).view(-1, self.width)
        return found

    def write(self, features: Mapping[bytes, Float[Tensor, "_ d"]]) -> dict[bytes, Float[Tensor, "_ d"]]:
        """What is stored under these keys afterwards, possibly by another process."""
        if not self._usable:
            return {}
        rows = [(key, value.contiguous().numpy().tobytes()) for key, value in features.items()]
        with self._catch_errors(), self._connect() as table:
            table.executemany("INSERT OR IGNORE INTO features VALUES (?, ?)", rows)
        return self.read(features)


def fingerprint(module: nn.Module, settings: str) -> str:
    """Of a module's weights and the settings of what reads it: 32 hexadecimal digits."""
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
