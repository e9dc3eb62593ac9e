"""The `vlp` command. Each subcommand imports what it needs when it runs: help and mistakes are answered at once."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlp.curation import commands as data_commands
from vlp.deploy.export import command as export_command
from vlp.deploy.index import index_command, search_command
from vlp.deploy.serving import command as serve_command
from vlp.doctor import command as doctor_command
from vlp.prediction import command as predict_command
from vlp.scenes.vcr import command as vcr_command
from vlp.system import exit_codes
from vlp.system.errors import UserError, is_user_error
from vlp.system.pipes import end_with_reader, open_closed_streams
from vlp.system.suggest import nearest_option

FORMATS = ("hugging_face", "openai", "albef", "blip", "vilt", "vlp")  # convert.FORMATS, which would import torch


class Parser(argparse.ArgumentParser):
    """argparse with one sentence for a mistake, and the name that was probably meant."""

    commands: Sequence[str] = ()

    def error(self, message: str) -> None:  # type: ignore[override]
        refused = re.search(r"invalid choice: '(.*?)'", message)
        if refused and self.commands:
            hint = nearest_option(refused[1], self.commands, count=1) or f" there are {', '.join(self.commands)}"
            message = f"there is no command {refused[1]!r}:{hint}"
        self.exit(exit_codes.MISTAKE, f"{self.prog}: {message}\n")


def build_parser() -> Parser:
    top = Parser(
        prog="vlp", description="Vision-language pre-training experiments.", epilog="vlp COMMAND --help tells more."
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    commands.add_parser(
        "train", help="fit a model, then test its best checkpoint: vlp train [key=value …]", add_help=False
    )
    commands.add_parser(
        "evaluate", help="measure a checkpoint: vlp evaluate checkpoint=PATH data=… task=[…]", add_help=False
    )
    add_scenes(commands)
    data = commands.add_parser("data", help="fetch, check, clean and pack data sets")
    data.commands = data_commands.add_commands(data)
    doctor = commands.add_parser("doctor", help="what would go wrong with a training, before it starts")
    doctor_command.add_arguments(doctor)
    predict = commands.add_parser("predict", help="captions, answers, classes, … of single images, as JSON lines")
    predict_command.add_arguments(predict)
    serve = commands.add_parser("serve", help="answer requests with an exported model, over HTTP and on a page")
    serve_command.add_arguments(serve)
    convert = commands.add_parser("convert", help="turn a checkpoint into another format")
    convert.add_argument("source", type=Path, metavar="SRC")
    convert.add_argument("destination", type=Path, metavar="DST")
    convert.add_argument("--to", choices=FORMATS, required=True)
    convert.add_argument(
        "--mix",
        nargs=2,
        metavar=("OTHER", "SHARE"),
        help="write the weights between SRC and OTHER, a checkpoint of the same model, such as SRC fine-tuned: 0 is SRC, 1 OTHER",
    )
    predict_command.add_architecture_arguments(convert)
    add_shrink(commands)
    export = commands.add_parser(
        "export", help="write a model as a folder that runs without torch, if it computes the same"
    )
    export_command.add_arguments(export)
    indexed = commands.add_parser("index", help="make folders of photos searchable, or bring their index up to date")
    index_command.add_arguments(indexed)
    searched = commands.add_parser("search", help='find one\'s own photos: vlp search "a red car"')
    search_command.add_arguments(searched)
    add_compare(commands)
    add_sweep(commands)
    listed = commands.add_parser("ls", help="list the options that YAML offers")
    listed.add_argument(
        "group",
        nargs="?",
        metavar="GROUP",
        help="a config group, such as task or model/vision (models, towers, … as listed)",
    )
    top.commands = tuple(commands.choices)
    return top


def add_scenes(commands: Any) -> None:
    scenes = commands.add_parser("scenes", help="draw the generated data set, in the official formats")
    scenes.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    scenes.add_argument(
        "--images",
        type=positive_int,
        default=5_000,
        help="how many, in all; with --val or --test: for training (%(default)s)",
    )
    scenes.add_argument("--val", type=positive_int, help="validation images (a tenth of all)")
    scenes.add_argument("--test", type=positive_int, help="test images (a tenth of all)")
    scenes.add_argument("--size", type=positive_int, help="side in pixels (64, crowded 128)")
    scenes.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    scenes.add_argument(
        "--crowded",
        action="store_true",
        help="4 to 12 things of very different sizes that hide parts of each other, crowds, and one empty picture in ten",
    )
    scenes.add_argument(
        "--additions",
        action="extend",
        nargs="*",
        metavar="NAME",
        help="of refcoco (phrases that name one thing), panoptic (a segment for every pixel), pairs (instances whose "
        "classes are a colour and a shape) and, not of crowded scenes, visdial (dialogues); written into a finished set as "
        "well (all)",
    )
    vcr_command.add_arguments(scenes)


def add_shrink(commands: Any) -> None:
    shrink = commands.add_parser("shrink", help="a smaller model out of a checkpoint's own weights, to train on")
    shrink.add_argument("source", type=Path, metavar="SRC")
    shrink.add_argument("destination", type=Path, metavar="DST", help="the new file")
    shrink.add_argument(
        "--layers", metavar="LAYERS", help="how many are kept, such as 6 or 0.5 (evenly spaced), or which: 0,2,4,7,9,11"
    )
    shrink.add_argument("--mlp", metavar="UNITS", help="hidden units of each perceptron, the largest: 0.5 or a number")
    shrink.add_argument(
        "--tower",
        action="append",
        default=[],
        choices=("vision", "text"),
        help="which; may be repeated (all that are there)",
    )
    predict_command.add_architecture_arguments(shrink)


def add_compare(commands: Any) -> None:
    compare = commands.add_parser("compare", help="what differs between runs, and their final figures")
    compare.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders, or folders of runs")
    compare.add_argument(
        "--metric", action="append", default=[], help="a figure's name or a part of it; may be repeated"
    )
    compare.add_argument("--csv", type=Path, metavar="FILE")
    compare.add_argument("--json", action="store_true", help="print JSON")


def add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep", help="continue with a sweep that was stopped or killed, or had jobs that failed"
    )
    sweeps = sweep.add_subparsers(dest="sweep_command", metavar="COMMAND", required=True, parser_class=Parser)
    resumed = sweeps.add_parser(
        "resume", help="run the jobs of a sweep that did not finish, each from its last checkpoint"
    )
    resumed.add_argument("folder", type=Path, metavar="FOLDER", help="the sweep's folder, which holds sweep.json")
    sweep.commands = tuple(sweeps.choices)


def parse_share(text: str) -> float:
    """Raises UserError."""
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"--mix OTHER SHARE: {text!r} is no number from 0 to 1") from error


def positive_int(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"expects a number above 0, got {text}")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in ("train", "evaluate"):
        return run_hydra_command(arguments[0], arguments[1:])
    open_closed_streams()
    return end_with_reader(lambda: run_command(arguments))


def run_command(arguments: list[str]) -> int:
    """Every command but `train` and `evaluate`."""
    top = build_parser()
    options, rest = top.parse_known_args(arguments)
    if hasattr(options, "overrides"):  # argparse takes those before an option alone
        options.overrides += [word for word in rest if "=" in word and not word.startswith("-")]
        rest = [word for word in rest if word not in options.overrides]
    if rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return COMMANDS[options.command](options) or 0
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not is_user_error(error):
            raise
        parts = (getattr(options, name, None) for name in ("command", "data_command", "sweep_command"))
        print(f"vlp {' '.join(filter(None, parts))}: {error}", file=sys.stderr)
        return exit_codes.MISTAKE


def run_hydra_command(command: str, arguments: Sequence[str], *, conf: Path | None = None) -> int:
    """`train` and `evaluate`, which have Hydra's own command line."""
    from vlp.launch.main import main

    def multirun(*given: Any) -> int:
        from vlp.launch.sweep.multirun import sweep

        return sweep(*given)

    open_closed_streams()
    return end_with_reader(lambda: main(command, arguments, multirun=multirun, conf=conf))


def scenes(options: argparse.Namespace) -> None:
    from vlp.scenes.additions import ADDITIONS, CROWDED_ADDITIONS
    from vlp.scenes.generate import generate

    splits = {"train": options.images, "val": options.val, "test": options.test}
    images = {split: count for split, count in splits.items() if count}
    if options.vcr:
        return vcr_command.write(options, images)
    if options.check:
        raise UserError("--check is of questions: add --vcr")
    every = CROWDED_ADDITIONS if options.crowded else ADDITIONS
    generate(
        options.out,
        images=images if len(images) > 1 else options.images,
        size=options.size or (128 if options.crowded else 64),
        seed=options.seed,
        crowded=options.crowded,
        additions=every if options.additions is None else options.additions,
    )
    print(options.out)


def convert(options: argparse.Namespace) -> None:
    if not options.source.exists():
        raise FileNotFoundError(f"{options.source}: there is no such file or folder")
    from vlp.checkpoints.convert import convert

    mix = None if options.mix is None else (Path(options.mix[0]), parse_share(options.mix[1]))
    convert(options.source, options.destination, options.to, mix=mix, **predict_command.architecture(options))
    print(options.destination)


def shrink(options: argparse.Namespace) -> None:
    if not options.source.exists():
        raise FileNotFoundError(f"{options.source}: there is no such file or folder")
    from vlp.checkpoints.shrink import shrink

    settings = shrink(
        options.source, options.destination, layers=options.layers, mlp=options.mlp, towers=options.tower,
        **predict_command.architecture(options),
    )  # fmt: skip
    print(f"{options.destination}: {' '.join(settings)}")


def compare(options: argparse.Namespace) -> None:
    from vlp.launch.runs.compare import compare

    compare(options.folders, metrics=options.metric, csv_file=options.csv, as_json=options.json)


def sweep(options: argparse.Namespace) -> int:
    from vlp.launch.sweep.multirun import resume_sweep

    return resume_sweep(options.folder)


def ls(options: argparse.Namespace) -> None:
    from vlp.launch.config.choices import print_choices

    print_choices(options.group)


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "scenes": scenes,
    "data": data_commands.run,
    "doctor": doctor_command.run,
    "predict": predict_command.run,
    "serve": serve_command.run,
    "convert": convert,
    "shrink": shrink,
    "export": export_command.run,
    "index": index_command.run,
    "search": search_command.run,
    "compare": compare,
    "sweep": sweep,
    "ls": ls,
}

if __name__ == "__main__":
    sys.exit(main())
