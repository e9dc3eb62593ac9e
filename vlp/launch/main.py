"""`train` and `evaluate`: compose and check the config, freeze it in a new run folder, then become the run.

This process never imports torch; the run is `python -m vlp.training.run RUN/config.yaml` in its place, so each process
that Lightning starts for DDP begins from the same frozen file. With -m every job is such a process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from vlp.launch import torchrun
from vlp.launch.config.changes import same_settings
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.resolve import resolve_config
from vlp.launch.process import command_line, run_with_restarts, training_process
from vlp.launch.resume import apply_overrides_to_run, change_to_start_folder
from vlp.launch.runs.folder import NEW_RUN_FOLDER, create_run_folder, freeze, parent_folder, read_frozen_config
from vlp.launch.runs.provenance import parts_of_checkpoint
from vlp.launch.runs.wandb_environment import check_wandb, claim_run_id, take_tags
from vlp.system import exit_codes
from vlp.system.compat.hydra import argument_parser
from vlp.system.ranks import torchrun_rank
from vlp.system.secrets import redact, secrets_in_overrides

Multirun = Callable[[str, Composer, list[str]], int]


def main(command: str, arguments: Sequence[str], *, multirun: Multirun, conf: Path | None = None) -> int:
    """Run `train` or `evaluate` with Hydra's command line; returns an exit code, unless the process becomes the run.

    multirun: what -m calls with the command, the composer and the overrides.
    """
    try:
        return _main(command, list(arguments), multirun, conf)
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(redact(f"{command}: {error}", secrets_in_overrides(arguments)), file=sys.stderr)
        return exit_codes.MISTAKE
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def _main(command: str, arguments: list[str], multirun: Multirun, conf: Path | None) -> int:
    parser = argument_parser()
    parser.prog = command
    parser.usage = f"{command} [--help] [--cfg job] [--info] [-m] [key=value …]"
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        help="start a run again, from its last checkpoint, when its process was lost",
    )
    options = parser.parse_intermixed_args(arguments)
    if options.max_restarts < 0 or (options.max_restarts and options.multirun):
        raise ConfigError(
            "--max-restarts N is for one run, N times at most; vlp sweep resume starts a sweep's lost jobs again"
        )
    if options.multirun and torchrun_rank() is not None:
        raise ConfigError(
            "-m: each process that torchrun started would run its own sweep; a job starts its processes itself"
        )
    if options.experimental_rerun:
        raise ConfigError(
            "--experimental-rerun is not supported; the first line of a run folder's config.yaml is its command"
        )
    composer = Composer(
        conf=Path(options.config_path) if options.config_path else conf or conf_folder(),
        extra=[Path(options.config_dir)] if options.config_dir else [],
        config_name=options.config_name or command,
        of_checkpoint=parts_of_checkpoint,
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
        return multirun(command, composer, options.overrides)
    else:
        return freeze_and_run(command, composer, options.overrides, restarts=options.max_restarts)
    return 0


def freeze_and_run(command: str, composer: Composer, overrides: list[str], restarts: int = 0) -> int:
    """Freeze the config in a new run folder, or in that of `resume`, and become the run."""
    folder = folder_to_resume(composer, overrides)
    if folder is not None:
        change_to_start_folder(folder)
    rank = torchrun_rank()
    if rank is not None and (rank or torchrun.is_restart()):
        parent = parent_folder(resolve_config(composer.compose(overrides), Path("run")))
        folder = folder or torchrun.wait_for_run_folder(parent)
    elif folder is None:
        config = composer.compose(overrides)
        container = resolve_config(config, Path("run"))  # everything is checked before a folder appears
        parent = parent_folder(container)
        check_wandb(container)
        if container.get("resume") == "auto":
            folder = newest_unfinished_run(config, parent)
            config.resume = None
            message = (
                f"resuming in {folder}"
                if folder
                else f"no unfinished run of this config in {parent}; starting a new one"
            )
            print(f"resume=auto: {message}", file=sys.stderr)
        if folder is None:
            folder = create_run_folder(parent)
            os.environ[NEW_RUN_FOLDER] = str(folder)
            container = resolve_config(config, folder)
            take_tags(container)
            claim_run_id(container, folder)
            freeze(folder, container, command_line(command, overrides))
        if rank is not None:
            torchrun.publish_run_folder(parent, folder)
    else:
        apply_overrides_to_run(folder, composer, [line for line in overrides if not line.startswith("resume=")])
        if (folder / "results.json").is_file():
            print(
                f"{folder}: this run was finished; what its config leaves to train is trained, and the end is measured again",
                file=sys.stderr,
            )
    return execute_or_supervise(command, folder / "config.yaml", restarts)


def execute_or_supervise(command: str, file: Path, restarts: int = 0) -> int:
    arguments, environment = training_process(command, file)
    sys.stdout.flush()
    sys.stderr.flush()
    if restarts:
        return run_with_restarts(arguments, environment, restarts)
    os.execve(arguments[0], arguments, environment)


def folder_to_resume(composer: Composer, overrides: list[str]) -> Path | None:
    """The run folder that resume=FOLDER names."""
    for override in composer.parse(overrides):
        if override.key_or_group == "resume" and isinstance(override.value(), str) and override.value():
            folder = Path(str(override.value())).expanduser()
            if folder.is_dir() and not any(folder.glob("shard_*_of_*.pt")):  # those are one checkpoint
                if not (folder / "config.yaml").is_file():
                    raise ConfigError(f"resume={folder}: it holds no config.yaml, so it is no run folder")
                return folder.resolve()
    return None


def newest_unfinished_run(config: DictConfig, parent: Path) -> Path | None:
    """The newest run of the same config that has a checkpoint and no results."""
    for file in sorted(parent.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime, reverse=True):
        folder = file.parent
        if (folder / "results.json").exists() or not any((folder / "checkpoints").glob("*.ckpt")):
            continue
        here, there = resolve_config(config, folder), OmegaConf.to_container(read_frozen_config(file), resolve=False)
        if same_settings(there, here):  # type: ignore[arg-type]
            return folder
    return None
