"""Which files of a folder are its weights: the exact name, else the shards that an index names; never all that look alike.

A folder may hold the same weights in two formats. The first that is complete is read, in the order of transformers; what is
passed over because it is damaged, and other files of tensors, are named in `notes`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlp.system import ranks
from vlp.system.errors import UserError
from vlp.system.json_files import read_json
from vlp.system.weight_files import describe_damage

INDEX = ".index.json"
HUGGING_FACE = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
OPEN_CLIP_CONFIG = "open_clip_config.json"
_TENSORS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states).*")
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)(\.\w+)")

Files = dict[Path, set[str] | None]  # with the keys that an index expects in each; None = without an index


@dataclass(frozen=True)
class FolderWeights:
    """files: in order.  notes: for the user."""

    files: Files
    notes: tuple[str, ...]

    def warn(self) -> None:
        for note in self.notes:
            ranks.warn_once(note)


def choose_weights(folder: Path, names: Sequence[str]) -> FolderWeights:
    """names: of files or indices (`….index.json`), the preferred one first.  Raises UserError for weights that are damaged,
    and FileNotFoundError where there are none."""
    damage: list[str] = []
    files: Files | str
    for name in (name for name in names if (folder / name).exists()):
        files = _files_of_index(folder / name) if name.endswith(INDEX) else {folder / name: None}
        wrong = files if isinstance(files, str) else _describe_first_damage(files)
        if isinstance(files, str) or wrong is not None:
            damage.append(str(wrong))
            continue
        others = _other_files(folder, {file.name for file in files})
        note = f"{folder}: {name} is read" + (f", as {'; '.join(damage)}" if damage else "")
        note += f"; left alone: {', '.join(others)}" if others else ""
        return FolderWeights(files, (note,) if others or damage else ())
    if damage:
        raise UserError("; ".join(damage))
    others = _other_files(folder, set())
    hint = f": it has {', '.join(others)}; rename the one to be read" if others else ""
    raise FileNotFoundError(f"{folder} has none of {', '.join(names)}{hint}")


def uses_safetensors(folder: Path) -> bool:
    """The format that transformers is to read of a folder, for its `use_safetensors`. Warns of what is passed over."""
    chosen = choose_weights(folder, HUGGING_FACE)
    chosen.warn()
    return next(iter(chosen.files)).suffix == ".safetensors"


def _files_of_index(index: Path) -> Files | str:
    """The shards and the keys of each, or what is wrong with the index."""
    weight_map = read_json(index)
    weight_map = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        return f"{index} has no weight_map, which says in which file each tensor is: download or copy it again"
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if Path(name).name != name or name in ("", ".", "..")]:
        return f"{index} names {outside[0]!r}, which is no file of its own folder"
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        return f"{index} names {', '.join(missing)}, which the folder lacks: download or copy it again"
    if unknown := _unnamed_shards(index.parent, names):
        return (
            f"{index} does not name {', '.join(unknown)}, which is of the same set of shards: download the index again"
        )
    return {index.parent / name: {key for key, file in weight_map.items() if file == name} for name in names}


def _unnamed_shards(folder: Path, names: Sequence[str]) -> list[str]:
    """Files that carry the name and the number of shards of those in the index, which does not name them."""
    sets = {match.groups() for name in names if (match := _SHARD.fullmatch(name))}
    others = sorted(file.name for file in folder.iterdir() if file.name not in names)
    return [name for name in others if (match := _SHARD.fullmatch(name)) and match.groups() in sets]


def _describe_first_damage(files: Files) -> str | None:
    damage = ((file, describe_damage(file)) for file in files)
    return next((f"{file} {wrong}" for file, wrong in damage if wrong is not None), None)


def _other_files(folder: Path, names: set[str]) -> list[str]:
    """Further files of tensors, those of an optimiser or a scheduler excepted."""
    files = (file.name for file in folder.iterdir() if file.suffix in _TENSORS and file.is_file())
    return sorted(name for name in files if name not in names and not _OF_TRAINING.fullmatch(name))


def refuse_damaged(path: Path) -> None:
    """Raises UserError or FileNotFoundError for a checkpoint, file or folder, that cannot be read for sure. What a folder of
    another kind is, its reader says."""
    files = [path]
    if path.is_dir():
        runs = [path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
        shards = sorted(path.glob("shard_*_of_*.pt"))
        if own := next((file for file in runs if file.exists()), None):
            return refuse_damaged(own)
        if not shards and any((path / name).is_file() for name in (OPEN_CLIP_CONFIG, "config.json")):
            choose_weights(path, folder_names(path))
        files = shards
    if (wrong := _describe_first_damage(dict.fromkeys(files))) is not None:
        raise UserError(wrong)


def folder_names(folder: Path) -> tuple[str, ...]:
    """The names that weights of this folder may have.  Raises FileNotFoundError where it is no checkpoint."""
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return OPEN_CLIP
    if (folder / "config.json").is_file():
        return HUGGING_FACE
    raise FileNotFoundError(
        f"{folder} is no checkpoint: it has neither checkpoints/best.ckpt or last.ckpt, nor {OPEN_CLIP_CONFIG}, nor config.json"
    )
