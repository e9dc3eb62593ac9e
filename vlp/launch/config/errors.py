"""One sentence for every mistake in a config or an override: the place, what is wrong, the fix.

`explain` translates the exceptions of Hydra, OmegaConf and PyYAML; what it does not know keeps its first lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from vlp.system.errors import UserError
from vlp.system.suggest import nearest_option

EXPLAINED = (HydraException, OmegaConfBaseException, MarkedYAMLError, UnicodeDecodeError, ValueError)


class ConfigError(UserError):
    """A mistake in the configuration, an override or a command."""


def join_names(names: Iterable[str], limit: int = 30) -> str:
    names = sorted(names)
    return ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")


def explain(error: BaseException) -> str:
    """One sentence for an exception raised while composing."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a YAML file"
        return f"{place}: not readable as YAML: {error.problem or error.context}"
    if isinstance(error, UnicodeDecodeError):
        return f"a YAML file is not UTF-8 text ({error}); save it as UTF-8"
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read the override {error.override!r}: write key=value, and quote a value that holds spaces, "
            "commas, quotes, brackets or '=' twice, once for the shell and once for Hydra: 'key=\"a, b\"'"
        )
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, EXPLAINED) and not str(error).strip("None \n"):
        return explain(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"(full_key|object_type|reference_type)\b", line)]
    chosen = re.match(r"You must specify '(.+?)', e\.g, .*", lines[0]) if lines else None
    if chosen:
        return f"{chosen[1]}: no choice is made; write {chosen[1]}=OPTION, with one of {join_names(lines[2:])}"
    return " ".join(lines[:4]) or type(error).__name__


def _missing_config(error: MissingConfigException) -> str:
    place = re.match(r"In '(.+?)'", str(error))
    if not error.missing_cfg_file:
        return " ".join(str(error).split())
    group, _, option = error.missing_cfg_file.rpartition("/")
    options = [name.rpartition("/")[2] for name in error.options or []]
    if not group:
        return f"no {option}.yaml on the config path"
    origin = f" (asked for in {place[1]}.yaml)" if place else ""
    if not options:
        return f"{group}={option}: there is no config group {group}{origin}"
    hint = nearest_option(option, options)
    return f"{group}={option}: no such option{origin}:{hint} Options of {group}: {join_names(options)}".replace(
        "::", ":"
    )
