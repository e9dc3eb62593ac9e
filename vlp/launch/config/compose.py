"""From conf/ and the overrides to one checked config: Hydra's composition, without importing torch.

The overrides and the experiment files are checked against what the other YAML files define (vlp/launch/config/schema.py), so a
mistyped key fails here and not after a minute of training, or never.
"""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from vlp.launch.config.errors import EXPLAINED, ConfigError, explain, join_names
from vlp.launch.config.quoting import quote_text
from vlp.launch.config.ranges import check_ranges
from vlp.launch.config.resolve import resolve_config, to_yaml
from vlp.launch.config.schema import ConfigSchema, check_targets, dotted_nodes, find_key
from vlp.launch.config.trainer_settings import check_trainer
from vlp.launch.config.typed_text import read_typed
from vlp.launch.config.values import check_interpolations, restore_texts
from vlp.system.compat import hydra as hydra_compat
from vlp.upgrade import renamed_keys, upgrade, upgrade_override, upgrade_target

PartsOfCheckpoint = Callable[[str, str], list[tuple[str, str, Any]]]
OF_THE_CHECKPOINT = ("model", "tokenizer", "transform")  # in `evaluate`
PARTS_OF_TRAINING = ("data", "transform", "tokenizer", "model", "optimizer", "trainer")
PACKAGE = Path(__file__).resolve().parents[2]


def conf_folder() -> Path:
    """The project's own YAML: `vlp/conf` in an installed wheel, `conf/` beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def study_folders() -> list[Path]:
    """The YAML of studies, `experiments/*/conf` of the checkout and of the working folder, in order of name. They belong to
    no wheel."""
    checkouts = [Path.cwd(), *([PACKAGE.parent] if conf_folder().parent == PACKAGE.parent else [])]
    folders = {folder.resolve(): None for root in checkouts for folder in sorted(root.glob("experiments/*/conf"))}
    return [folder for folder in folders if folder.is_dir()]


def config_folders() -> list[Path]:
    """Where `vlp ls` and a run look for YAML, first match first: conf/ of the working folder, the project's own, studies."""
    own = [Path("conf").resolve()] if Path("conf").is_dir() else []
    return list(dict.fromkeys([*own, conf_folder().resolve(), *study_folders()]))


def data_root(name: str) -> str:
    """First existing folder of $VLP_DATA/NAME, data/NAME in the working folder, data/NAME in the checkout; else the first."""
    roots = [Path(os.environ["VLP_DATA"]).expanduser()] if os.environ.get("VLP_DATA") else []
    folders = [root / name for root in (*roots, Path("data"), PACKAGE.parent / "data")]
    return str(next((folder for folder in folders if folder.exists()), folders[0]))


class Composer:
    """Composes `config_name` from `conf`, the folders in `extra`, and `conf/` in the working folder if there is one; the
    project's own `conf` brings the studies' YAML with it.

    of_checkpoint: (group, place in the config, content) of the parts that a command (config_name) takes over from the run of a
    checkpoint's path; they take the place of the groups that the overrides leave open, and in `train` the experiment as well.
    """

    def __init__(
        self,
        *,
        conf: Path,
        config_name: str,
        extra: Sequence[Path] = (),
        of_checkpoint: PartsOfCheckpoint | None = None,
    ) -> None:
        version.setbase("1.3")
        OmegaConf.register_new_resolver("data_root", data_root, replace=True)
        for folder in (conf, *extra):
            if not folder.is_dir():
                raise ConfigError(f"{folder}: no such config folder")
        own = Path("conf").resolve()
        self.studies = study_folders() if conf.resolve() == conf_folder().resolve() else []
        check_unique_file_names([conf.resolve(), *self.studies])
        given = [folder.resolve() for folder in extra]
        preferred = [*given, *([own] if own.is_dir() and own != conf.resolve() else [])]
        preferred += [folder for folder in self.studies if folder not in given]
        self.hydra = hydra_compat.create_hydra(config_name, conf, preferred)
        self.loader: Any = self.hydra.config_loader
        self.config_name, self.conf, self.extra = config_name, conf, list(extra)
        self.of_checkpoint = of_checkpoint if config_name in ("train", "evaluate") else None
        self.known: ConfigSchema | None = None  # of the config that was composed last
        self._bases: dict[tuple[str, ...], tuple[DictConfig, Any, ConfigSchema]] = {}

    def parse(self, lines: Sequence[str]) -> list[Override]:
        """Overrides as Hydra reads them, sweeps included."""
        try:
            return hydra_compat.parse_overrides(self.loader, [self._readable(line) for line in lines])
        except EXPLAINED as error:
            raise ConfigError(explain(error)) from error

    def _readable(self, line: str) -> str:
        """An override in today's words, quoted where Hydra's grammar needs that."""
        return quote_text(upgrade_and_warn(line), partial(hydra_compat.is_readable_override, self.loader))

    def compose(self, lines: Sequence[str]) -> DictConfig:
        """The checked config (its `hydra` node included) for one run."""
        try:
            return self._compose(list(lines))
        except ConfigError:
            raise
        except MissingConfigException as error:
            group, _, option = (error.missing_cfg_file or "").rpartition("/")
            if not error.options and group:
                error.options = self.loader.get_group_options(group)
            study = option if group == "experiment" else "STUDY"
            hint = (
                f"; a study of the repository's experiments/ brings its own YAML: run in a checkout, or add --config-dir "
                f"experiments/{study}/conf"
            )
            raise ConfigError(explain(error) + (hint if group and not self.studies else "")) from error
        except EXPLAINED as error:
            raise ConfigError(explain(error)) from error

    def _compose(self, lines: list[str]) -> DictConfig:
        lines = [self._readable(line) for line in lines]
        overrides, repository = hydra_compat.parse_overrides_with_repository(self.loader, self.config_name, lines)
        groups: list[Override] = []
        values: list[Override] = []
        for override in overrides:
            if self.config_name == "evaluate" and re.split(r"[./@]", override.key_or_group)[0] in OF_THE_CHECKPOINT:
                raise ConfigError(
                    f"{override.input_line}: evaluate takes model, tokenizer and transform from the checkpoint, whose weights "
                    "depend on them; leave this out"
                )
            if override.is_sweep_override():
                key = override.get_key_element()
                raise ConfigError(
                    f"{override.input_line}: several values for one run: add -m to run them all, write {key}=[a,b] "
                    f"for a list, or quote the value twice: '{key}=\"a,b\"'"
                )
            replaces_node = isinstance(override.value(), dict) or not repository.group_exists(override.key_or_group)
            if override.is_hydra_override() and override.key_or_group != "hydra.searchpath":
                raise ConfigError(
                    f"{override.input_line}: Hydra does not run the job here; name=… and runs=… choose the run folder"
                )
            (values if replaces_node and not override.is_hydra_override() else groups).append(override)
        base, defaults, known = self._compose_groups(tuple(str(override.input_line) for override in groups))
        config = copy.deepcopy(base)
        self._take_parts_of_checkpoint(config, groups, values)
        origin = partial(self.origin, defaults)
        for override in values:
            typed = ConfigSchema(plain_config(config), self.groups, origin).check_override(override)
            if override.is_delete() or typed is None:
                hydra_compat.apply_override(self.loader, override, config)
            else:
                OmegaConf.update(config, override.key_or_group, typed, force_add=True)
        _upgrade_targets(config)
        check_interpolations(config, known)
        plain = plain_config(config)
        check_targets(plain)
        self.known = ConfigSchema(plain, self.groups, origin)
        self._check_parts(config)
        check_ranges(plain)
        changed = tuple(override.key_or_group for override in values)
        check_trainer(plain, evaluation=self.config_name == "evaluate", changed=changed)
        return config

    def _check_parts(self, config: DictConfig) -> None:
        for part in PARTS_OF_TRAINING if self.config_name == "train" else ():
            if part in self.groups and config.get(part) is None:
                options = join_names(self.loader.get_group_options(part))
                raise ConfigError(f"{part}: a run needs one, and the config has none: choose {part}=NAME, of {options}")

    def _take_parts_of_checkpoint(self, config: DictConfig, groups: list[Override], values: list[Override]) -> None:
        given = next((o.value() for o in reversed(values) if o.key_or_group == "checkpoint"), config.get("checkpoint"))
        if isinstance(given, (list, ListConfig)) and len(given):
            given = list(given)[-1]  # of two that are mixed, the fine-tuned one
        if self.of_checkpoint is None or not isinstance(given, str):
            return
        chosen = {override.key_or_group.partition("/")[0] for override in groups}
        here, standard = plain_config(config), plain_config(self._compose_groups(())[0])
        plain_evaluation = self.config_name == "evaluate" and "experiment" not in chosen
        for group, part, content in self.of_checkpoint(given, self.config_name):
            left_open = plain_evaluation or here.get(part) == standard.get(part)
            if group not in chosen and left_open:
                OmegaConf.update(config, part, content, merge=False, force_add=True)

    def _compose_groups(self, groups: tuple[str, ...]) -> tuple[DictConfig, Any, ConfigSchema]:
        """The config of a choice of groups, before any value is overridden, and what its keys are without an experiment; a
        sweep composes each choice once."""
        if groups not in self._bases:
            config = self.loader.load_configuration(self.config_name, list(groups), run_mode=RunMode.RUN)
            defaults = self.loader.compute_defaults_list(self.config_name, list(groups), RunMode.RUN).defaults
            experiments = [d for d in defaults if (d.config_path or "").startswith("experiment/")]
            if experiments:
                _, repository = hydra_compat.parse_overrides_with_repository(self.loader, self.config_name, groups)
                others = [d for d in defaults if d not in experiments]
                skeleton = plain_config(hydra_compat.compose_defaults(self.loader, others, repository))
            for default in experiments:
                if default.package:
                    raise ConfigError(f"{self.file(default.config_path)}: its first line must be: # @package _global_")
                self._check_nested_experiment(repository, default)
                content = plain_config(repository.load_config(default.config_path).config)
                for place, name in self._unused_experiment_parts(content, skeleton, groups):
                    del content[place][name]
                    with open_dict(config):
                        del config[place][name]
                file, typed = self.file(default.config_path), self.typed(repository, default)
                for old, new in renamed_keys(content):
                    warn_once(f"{file}: {old} was renamed; write {new}")
                    OmegaConf.update(config, new, OmegaConf.select(config, old), force_add=True)
                    with open_dict(config):
                        del OmegaConf.select(config, old.rpartition(".")[0])[old.rpartition(".")[2]]
                known = ConfigSchema(skeleton, self.groups, partial(self.origin, others))
                content = {key: known.with_texts(key, value, typed.get(key)) for key, value in content.items()}
                known.check_file(file, upgrade(content))
            plain = skeleton if experiments else plain_config(config)
            known = ConfigSchema(copy.deepcopy(plain), self.groups, partial(self.origin, defaults))
            restore_texts(config, known, lambda: (self.typed(self.loader.repository, d) for d in reversed(defaults)))
            self._bases[groups] = config, defaults, known
        return self._bases[groups]

    def _check_nested_experiment(self, repository: Any, default: Any) -> None:
        """Hydra would pass over it, as the command line has chosen the group already."""
        for entry in self.typed(repository, default).get("defaults") or []:
            for key, name in entry.items() if isinstance(entry, dict) else ():
                if re.fullmatch(r"override\s+/experiment", str(key)):
                    raise ConfigError(
                        f"{self.file(default.config_path)}: '{key}: {name}' has no effect; to build upon another experiment "
                        f"write '- /experiment/{name}'"
                    )

    def typed(self, repository: Any, default: Any) -> Any:
        """The content of the file of a defaults list's entry, every scalar as text."""
        found = repository.load_config(default.config_path)
        file = Path(found.path.partition("://")[2]) / f"{default.config_path}.yaml" if found is not None else Path()
        return (read_typed(file) if file.is_file() else None) or {}

    def _unused_experiment_parts(
        self, experiment: dict[str, Any], skeleton: dict[str, Any], lines: Sequence[str]
    ) -> list[tuple[str, str]]:
        """Parts that an experiment sets values of and the command line has not chosen: objective=[itc] of one with itm."""
        chosen = {line.partition("=")[0].lstrip("+~") for line in lines}
        return [
            (place, name)
            for group, place in (("objective", "objectives"), ("task", "tasks"), ("callbacks", "callbacks"))
            if group in chosen
            for name, values in (experiment.get(place) or {}).items()
            if name not in (skeleton.get(place) or {}) and "_target_" not in (values or {})
            if name in self.loader.get_group_options(group)
        ]

    @cached_property
    def groups(self) -> list[str]:
        """Every config group below conf/, with slashes: model, model/vision, …"""
        found = [""]
        for parent in found:  # grows while it is walked
            names = self.loader.list_groups(parent)
            found += [f"{parent}/{name}".lstrip("/") for name in names if name != "hydra"]
        return found[1:]

    def origin(self, defaults: Any, key: str) -> str:
        """The YAML file that last sets `key`."""
        for default in reversed(defaults):
            loaded = hydra_compat.load_default(self.loader, default)
            if isinstance(loaded, DictConfig) and find_key(plain_config(loaded), key)[1] is not None:
                return self.file(default.config_path)
        return self.file(self.config_name)

    def file(self, config_path: str) -> str:
        """A YAML file as a message names it: conf/… or experiments/<study>/conf/…"""
        name = f"{config_path}.yaml"
        study = next((folder for folder in self.studies if (folder / name).is_file()), None)
        return f"conf/{name}" if study is None else "/".join([*study.parts[-3:], name])

    def show(self, lines: Sequence[str], *, kind: str, package: str | None, resolve: bool) -> str:
        """YAML text of `--cfg`: the job's config, Hydra's, or both."""
        config = self.compose(lines)
        job = OmegaConf.create(resolve_config(config, Path("run")) if resolve else plain_config(config))
        hydra = OmegaConf.create({"hydra": OmegaConf.to_container(config.hydra)})
        chosen: Any = {"job": job, "hydra": hydra, "all": OmegaConf.merge(hydra, job)}[kind]
        if package:
            chosen = OmegaConf.select(chosen, package)
            if not OmegaConf.is_config(chosen):
                raise ConfigError(f"--package {package}: no such part of the config")
        return to_yaml(chosen)


def upgrade_and_warn(line: str) -> str:
    """An override in today's words; a warning names them."""
    line, renamed = upgrade_override(line)
    if renamed is not None:
        warn_once(renamed)
    return line


def _upgrade_targets(config: DictConfig) -> None:
    """`_target_` of a class that has moved, in YAML of one's own."""
    for path, target in list(dotted_nodes(plain_config(config))):
        if path.endswith("._target_") and (today := upgrade_target(target)) != target:
            warn_once(f"{path}: {target} was renamed; write {today}")
            OmegaConf.update(config, path, today)


@cache
def warn_once(sentence: str) -> None:
    """Once in a process, as a sweep composes many configs."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def check_unique_file_names(folders: Sequence[Path]) -> None:
    """Raises ConfigError where two of the folders have a YAML file of the same name: only the first would be read."""
    first: dict[Path, Path] = {}
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            other = first.setdefault(file.relative_to(folder), folder)
            if other != folder:
                name = file.relative_to(folder)
                raise ConfigError(f"{file}: {other / name} has the same name; rename one of them")


def plain_config(config: DictConfig) -> dict[str, Any]:
    """The config without Hydra's own node, unresolved."""
    container: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in container.items() if key != "hydra"}
