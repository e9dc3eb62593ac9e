"""Values of a composed config that YAML or an interpolation gave another type than their setting has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlp.launch.config.errors import ConfigError
from vlp.launch.config.schema import ConfigSchema, dotted_nodes, find_key
from vlp.launch.config.typed_text import Scalar, typed_elements
from vlp.system.secrets import SECRET_VARIABLE


def restore_texts(config: DictConfig, known: ConfigSchema, contents: Callable[[], Iterable[Any]]) -> None:
    """A text that YAML reads as a number (name: 1e5) becomes what its file says.

    contents: of the files, the last to be merged first, every scalar as text (`read_typed`).  Raises ConfigError.
    """
    plain: Any = OmegaConf.to_container(config, resolve=False)
    for key, value in dotted_nodes({name: node for name, node in plain.items() if name != "hydra"}):
        if not isinstance(value, Scalar) or not (known.takes_text(key, value) or known.declares_text(key)):
            continue
        text = next((text for content in contents() if (text := _text_in_file(content, key, value)) is not None), None)
        if text is None:
            raise ConfigError(f"{known.origin(key)}: {key}: {value} is to be a text: write it in quotes")
        OmegaConf.update(config, key, text)


def _text_in_file(content: Any, key: str, value: Any) -> str | None:
    """What a file says of a key, which begins there at the place of the file's group."""
    parts = key.split(".")
    for start in range(len(parts)):
        known, text = find_key(content, ".".join(parts[start:]))
        if known and isinstance(text, str) and re.fullmatch(r"[\w.:+-]+", text):
            return text if OmegaConf.create(f"value: {text}").value == value else None
    return None


def check_interpolations(config: DictConfig, known: ConfigSchema) -> None:
    """What `${…}` leads to has the type of its setting: an environment variable is a text. Raises ConfigError."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    for key, raw in dotted_nodes({name: node for name, node in plain.items() if name != "hydra"}):
        default = find_key(known.config, key)[1]
        if (
            not isinstance(raw, str)
            or "${" not in raw
            or SECRET_VARIABLE.search(raw)
            or not isinstance(default, Scalar)
        ):
            continue
        try:
            value = OmegaConf.select(config, key)
        except OmegaConfBaseException:
            continue  # reported with its place when the config is resolved
        fix = f": it is a text; write ${{oc.decode:{raw}}}" if isinstance(value, str) and "oc.env:" in raw else ""
        try:
            known.check_value(f"{key}={raw}", key, value, default)
        except ConfigError as error:
            raise ConfigError(f"{error}{fix}") from None


def swept_values(override: Override, known: ConfigSchema | None) -> list[str]:
    """The values of a discrete sweep; texts as they were typed.  known: of a composed config; None = there is none yet."""
    values = list(override.sweep_string_iterator())
    typed = typed_elements((override.input_line or "").partition("=")[2])
    if known is None or len(typed) != len(values) or not known.takes_text(override.get_key_element(), 1.0):
        return values
    return [text if is_number_or_truth(read) else read for read, text in zip(values, typed, strict=True)]


def is_number_or_truth(text: str) -> bool:
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:  # a list of patterns with backslashes, which Hydra reads and YAML does not
        return False
    return isinstance(read, Scalar) or bool(re.fullmatch(r"-?(inf|nan)", text))
