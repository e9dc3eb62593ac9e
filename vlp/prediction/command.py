"""`vlp predict CHECKPOINT TASK INPUT…`: what a checkpoint makes of single images, one JSON line each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlp.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "TASK is one of `vlp ls task`, if the checkpoint has what it needs. A JSONL file has a line for each image, with the "
        "keys image (or images, of a pair), question, captions, choices and rationales, and of a dialogue history, image_id and "
        "round_id; paths are relative to the file. Options are for the inputs that do not say it themselves. Exit code 0: all "
        "is predicted; 2: an input or the command is wrong, and nothing is written."
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a run folder, or any file that vlp.load reads"
    )
    parser.add_argument("task", metavar="TASK", help="captioning, vqa, zero_shot, retrieval, …")
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="INPUT", help="image files, or JSONL files that name them"
    )
    parser.add_argument(
        "--question", metavar="TEXT", help="asked about each image; nlvr2, visual_entailment: the sentence"
    )
    parser.add_argument(
        "--caption", action="append", default=[], metavar="TEXT", help="compared with each image; may be repeated"
    )
    parser.add_argument("--choice", action="append", default=[], metavar="TEXT", help="to choose from; may be repeated")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME", help="a class of zero_shot; may be repeated"
    )
    parser.add_argument(
        "--answer", action="append", default=[], metavar="TEXT", help="a candidate answer of vqa; may be repeated"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the lines to a file that appears when all are done; visual_dialogue: .json = the leaderboard's file",
    )
    parser.add_argument(
        "--maps",
        type=Path,
        metavar="FOLDER",
        help="segmentation, panoptic: write a PNG of the size of each photo with the class, or the segment, of every pixel",
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="PATH", help="the vocabulary, for checkpoints that do not hold theirs"
    )
    add_architecture_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (%(default)s)")


def add_architecture_arguments(parser: argparse.ArgumentParser) -> None:
    """Of settings that a file of weights does not contain, as `vlp.load` takes them."""
    parser.add_argument(
        "--activation", metavar="NAME", help="of a checkpoint that does not contain it: quick_gelu or gelu"
    )
    parser.add_argument(
        "--vision-heads", type=int, metavar="N", help="attention heads, where the checkpoint does not say"
    )
    parser.add_argument(
        "--text-heads", type=int, metavar="N", help="attention heads, where the checkpoint does not say"
    )


def architecture(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("activation", "vision_heads", "text_heads")}


def run(options: argparse.Namespace) -> None:
    from vlp.prediction.inputs import check_images, read_inputs
    from vlp.system.atomic import check_output_file

    if options.batch_size < 1:
        raise UserError(f"--batch-size expects a number above 0, got {options.batch_size}")
    if options.out is not None and not options.out.parent.is_dir():
        raise FileNotFoundError(f"{options.out}: there is no folder {options.out.parent}; create it first")
    if not options.checkpoint.expanduser().exists():
        raise FileNotFoundError(f"{options.checkpoint}: there is no such checkpoint")
    inputs = read_inputs(options.inputs, question=options.question, captions=options.caption, choices=options.choice)
    check_images(inputs)
    if options.out is not None:
        checkpoint = options.checkpoint.expanduser()
        of_the_run = [checkpoint / name for name in ("metrics.jsonl", "results.json")]
        read = [*options.inputs, *(image for item in inputs for image in item.images)]
        read += of_the_run if checkpoint.is_dir() else [checkpoint]
        check_output_file(options.out, suffixes=(".jsonl", ".ndjson", ".json", ".txt"), inputs=read)
    from vlp.prediction.label_maps import check_maps, map_lines
    from vlp.prediction.tasks import prediction_lines, prepare_task, submission_text
    from vlp.predictor import load
    from vlp.system.atomic import atomic_write_text

    if options.maps is not None:
        check_maps(options.maps, options.task, inputs)
    predictor = load(options.checkpoint, tokenizer=options.tokenizer, **architecture(options))
    task = prepare_task(predictor, options.task, labels=options.label, answers=options.answer)
    found = (
        prediction_lines(predictor, task, options.task, inputs, batch_size=options.batch_size)
        if options.maps is None
        else map_lines(
            predictor, options.task, inputs, options.maps, labels=options.label, batch_size=options.batch_size
        )
    )
    if options.out is not None and options.out.suffix == ".json" and task.submission_keys:
        found = submission_text(task, inputs, found)
    if options.out is None:
        for line in found:
            print(line, end="", flush=True)
    else:
        atomic_write_text(options.out, found)
