"""Rows of Parquet and Arrow files and of the folders that Hugging Face's `datasets` saves, read by pyarrow.

    folder/dataset_dict.json  {"splits": ["train", ..]}           with a folder for each of them:
    folder/state.json         {"_data_files": [{"filename": "data-00000-of-00001.arrow"}, ..]}

An image is a path, or its file is in the table: {"bytes", "path"} or binary. An Arrow file is not compressed, so an image is
read where its bytes lie; a Parquet file with images is first written as an Arrow file, once, into the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlp.data.annotation_files import read_json, require_path
from vlp.data.issues import DataError
from vlp.structures import Member
from vlp.system.locks import exclusive_lock

ARROW_SUFFIXES = (".parquet", ".arrow")
ROWS = 64  # of a batch that is written: with images of 20 MB it stays below the 2 GB that its offsets can count


def is_datasets_folder(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def saved_splits(folder: Path) -> dict[str, Path]:
    """The folder of each split by its name; empty for a folder that is one split."""
    listed = folder / "dataset_dict.json"
    if not listed.is_file():
        return {}
    content = read_json(listed, description="the list of splits")
    names = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) and "/" not in name for name in names):
        raise DataError("unexpected structure", f"{listed}: expected an object with a list of names under 'splits'")
    return {name: folder / name for name in names}


def arrow_rows(path: Path, *, image: str, columns: Sequence[str], cache: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row after "file, row n", with the given columns.  image: the column whose value becomes a path, a Member or None."""
    pyarrow = _pyarrow(path)
    for file in _data_files(path) if path.is_dir() else [require_path(path, description="the table")]:
        row = 0
        try:
            for batch, stored in _batches(file, image=image, columns=columns, cache=cache):
                values = {name: _values(batch, name) for name in columns if name != image}
                values[image] = _images(batch, image, stored, name=file.name, first=row)
                for index in range(batch.num_rows):
                    row += 1
                    yield f"{file}, row {row}", {name: values[name][index] for name in columns}
        except (pyarrow.ArrowException, OSError) as error:
            message = f"{file}: cannot be read ({str(error).splitlines()[0]}); the file may be cut off"
            raise DataError("not a table", message) from error


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("pyarrow missing", f"{path}: reading it needs pyarrow; run pip install 'vlp[arrow]'") from error
    return pyarrow


def _data_files(folder: Path) -> list[Path]:
    """Of a folder that `save_to_disk` has written, in their order."""
    state = folder / "state.json"
    content = read_json(state, description="the list of a split's files")
    files = content.get("_data_files") if isinstance(content, dict) else None
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in files or []]
    if not isinstance(files, list) or not all(isinstance(name, str) and "/" not in name for name in names):
        raise DataError("unexpected structure", f"{state}: expected a list of file names under '_data_files'")
    return [require_path(folder / str(name), description=f"a file that {state} lists") for name in names]


def _batches(
    file: Path, *, image: str, columns: Sequence[str], cache: Path
) -> Iterator[tuple[Any, tuple[Path, int] | None]]:
    """Record batches, each with the Arrow file that it lies in and that file's address in memory; None for a Parquet file,
    whose images are paths."""
    pyarrow = _pyarrow(file)
    if file.suffix.lower() == ".parquet":
        parquet = pyarrow.parquet.ParquetFile(file)
        _check_columns(file, parquet.schema_arrow.names, columns)
        if not _holds_images(parquet.schema_arrow.field(image).type):
            for batch in parquet.iter_batches(columns=list(columns)):
                yield batch, None
            return
        file = _as_arrow_file(file, parquet, cache)
    with pyarrow.memory_map(str(file)) as mapped:
        content = mapped.read_buffer()
        reader: Any
        try:
            reader = pyarrow.ipc.open_stream(content)  # as `datasets` writes
        except pyarrow.ArrowInvalid:
            opened = pyarrow.ipc.open_file(content)
            reader = (opened.get_batch(number) for number in range(opened.num_record_batches))
        for number, batch in enumerate(reader):
            if number == 0:
                _check_columns(file, batch.schema.names, columns)
            yield batch, (file, content.address)


def _check_columns(file: Path, present: Sequence[str], needed: Sequence[str]) -> None:
    if lacking := [name for name in needed if name not in present]:
        fix = "name your columns with data.image, data.caption, …, or give each split its own file in data.table"
        raise DataError("missing key", f"{file}: no column {', '.join(lacking)} (there is {', '.join(present)}); {fix}")
    if repeated := [name for name in needed if list(present).count(name) > 1]:
        raise DataError(
            "column named twice", f"{file}: {repeated[0]!r} is the name of several columns; rename one of them"
        )


def _holds_images(kind: Any) -> bool:
    """Whether values of this type contain the image files themselves."""
    return str(kind).startswith(("struct", "binary", "large_binary"))


def _as_arrow_file(file: Path, parquet: Any, cache: Path) -> Path:
    """The rows of a Parquet file as an Arrow file in the cache; a file that has changed gets a new one."""
    pyarrow, status = _pyarrow(file), file.stat()
    version = f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    target = cache.expanduser() / f"{hashlib.sha256(version.encode()).hexdigest()[:24]}.arrow"
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(target.with_suffix(".lock")):  # several processes of a run may read the same table
        if not target.exists():
            part = target.with_suffix(".part")
            with pyarrow.ipc.new_stream(str(part), parquet.schema_arrow) as writer:
                for batch in parquet.iter_batches(batch_size=ROWS):
                    writer.write_batch(batch)
            os.replace(part, target)
    return target


def _values(batch: Any, name: str) -> list[Any]:
    """Python values of a column; the numbers of a Hugging Face class label as its names, -1 as None."""
    values: list[Any] = batch.column(name).to_pylist()
    information = json.loads((batch.schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = information.get("info", {}).get("features", {}).get(name)
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel" or not feature.get("names"):
        return values
    names = feature["names"]
    return [names[value] if value is not None and 0 <= value < len(names) else None for value in values]


def _images(batch: Any, column: str, stored: tuple[Path, int] | None, *, name: str, first: int) -> list[Any]:
    """Of each row, the path or the position of the bytes; null as None."""
    array = batch.column(column)
    if stored is None or not _holds_images(array.type):
        return list(array.to_pylist())
    paths: list[str | None] = [None] * len(array)
    if str(array.type).startswith("struct"):
        fields = [array.type.field(number).name for number in range(array.type.num_fields)]
        if "bytes" not in fields:
            raise DataError("unexpected structure", f"{name}: the column {column} has {', '.join(fields)} and no bytes")
        paths = array.field("path").to_pylist() if "path" in fields else paths
        array = array.field("bytes")
    file, address = stored
    edges = np.zeros(len(array) + 1, dtype=np.int64)
    if array.null_count < len(array):
        _, ends, data = array.buffers()
        width = np.int64 if str(array.type).startswith("large") else np.int32
        edges = np.frombuffer(ends, dtype=width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
        edges = edges + (data.address - address)
        if edges[0] < 0 or edges[-1] > file.stat().st_size:
            raise DataError(
                "not a table", f"{name}: its buffers are compressed; write the file again without compression"
            )
    images: list[Any] = []
    for index, (valid, path) in enumerate(zip(array.is_valid().to_pylist(), paths, strict=True)):
        base = os.path.basename(path or "") or "image"
        place = f"{name}/{first + index}/{base}"
        images.append(
            Member(archive=file, name=place, offset=int(edges[index]), size=int(edges[index + 1] - edges[index]))
            if valid
            else path
        )
    return images
