"""`train` and `evaluate`: compose and check the config, freeze it in a new run folder, then become the run.

This process never imports torch; the run is `python -m vlp.training.run RUN/config.yaml` in its place, so each process
that Lightning starts for DDP begins from the same frozen file. With -m every job is such a process (sweep.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from vlp.launch.compose import Composer, conf_folder
from vlp.launch.errors import ConfigError
from vlp.launch.process import command_line, process
from vlp.launch.run_folder import create, freeze, parent_folder, read, settle
from vlp.launch.secrets import of_overrides, redact


def main(command: str, arguments: Sequence[str], *, conf: Path | None = None) -> int:
    """Run `train` or `evaluate` with Hydra's command line; returns an exit code, unless the process becomes the run."""
    try:
        return _main(command, list(arguments), conf)
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(redact(f"{command}: {error}", of_overrides(arguments)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _main(command: str, arguments: list[str], conf: Path | None) -> int:
    parser = get_args_parser()
    parser.prog = command
    parser.usage = f"{command} [--help] [--cfg job] [--info] [-m] [key=value …]"
    options = parser.parse_intermixed_args(arguments)
    if options.experimental_rerun:
        raise ConfigError(
            "--experimental-rerun is not supported; the first line of a run folder's config.yaml is its command"
        )
    composer = Composer(
        conf=Path(options.config_path) if options.config_path else conf or conf_folder(),
        extra=[Path(options.config_dir)] if options.config_dir else [],
        config_name=options.config_name or command,
    )
    if options.hydra_help:
        composer.hydra.hydra_help(config_name=composer.config_name, args_parser=parser, args=options)
    elif options.help:
        composer.compose(options.overrides)
        composer.hydra.app_help(config_name=composer.config_name, args_parser=parser, args=options)
    elif options.shell_completion:
        composer.hydra.shell_completion(config_name=composer.config_name, overrides=options.overrides)
    elif options.cfg:
        text = composer.show(options.overrides, kind=options.cfg, package=options.package, resolve=options.resolve)
        print(text, end="")
    elif options.info:
        composer.compose(options.overrides)
        composer.hydra.show_info(options.info, config_name=composer.config_name, overrides=options.overrides)
    elif options.multirun:
        from vlp.launch.sweep import sweep

        return sweep(command, composer, options.overrides)
    else:
        return run(command, composer, options.overrides)
    return 0


def run(command: str, composer: Composer, overrides: list[str]) -> int:
    config = composer.compose(overrides)
    container = settle(config, Path("run"))  # everything is checked before a folder appears
    parent = parent_folder(container)
    folder = unfinished(config, parent) if container.get("resume") == "auto" else None
    if folder is None:
        folder = create(parent)
        if container.get("resume") == "auto":
            print(f"resume=auto: no unfinished run of this config in {parent}; starting a new one", file=sys.stderr)
            config.resume = None
    file = freeze(folder, settle(config, folder), command_line(command, overrides))
    arguments, environment = process(command, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(arguments[0], arguments, environment)


def unfinished(config: DictConfig, parent: Path) -> Path | None:
    """The newest run of the same config that has a checkpoint and no results."""
    for file in sorted(parent.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime, reverse=True):
        folder = file.parent
        if (folder / "results.json").exists() or not (folder / "checkpoints" / "last.ckpt").exists():
            continue
        here, there = settle(config, folder), OmegaConf.to_container(read(file), resolve=False)
        if {**here, "resume": None} == {**there, "resume": None}:  # type: ignore[dict-item]
            config.resume = str(folder / "checkpoints" / "last.ckpt")
            return folder
    return None
