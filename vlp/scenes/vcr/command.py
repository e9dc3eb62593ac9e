"""`vlp scenes OUT --vcr`: questions of visual commonsense reasoning, and whether words alone answer them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from vlp.system.errors import UserError


def add_arguments(scenes: argparse.ArgumentParser) -> None:
    scenes.add_argument(
        "--vcr",
        action="store_true",
        help="instead, questions of visual commonsense reasoning, a picture for each, in VCR's files",
    )
    scenes.add_argument(
        "--check",
        action="store_true",
        help="with --vcr: how often words alone choose the right answer and rationale, by a regression on those of train",
    )


def write(options: argparse.Namespace, images: Mapping[str, int]) -> None:
    """images: how many of each split that was asked for.  Raises UserError for options of other scenes."""
    from vlp.scenes.vcr.generate import generate_vcr
    from vlp.scenes.vcr.text_check import check_texts

    if options.crowded or options.additions is not None:
        raise UserError("--vcr draws scenes of its own: leave out --crowded and --additions")
    if len(images) == 1:  # a tenth of all for each, as of other scenes
        tenth = max(1, options.images // 10)
        images = {"train": max(1, options.images - 2 * tenth), "val": tenth, "test": tenth}
    generate_vcr(options.out, images=images, size=options.size or 64, seed=options.seed)
    print(options.out)
    if options.check:
        checked = check_texts(options.out)
        print(
            f"words and tags alone, {checked.questions:,} test questions: Q→A {checked.question_to_answer:.1f} %, "
            f"QA→R {checked.answer_to_rationale:.1f} % (chance 25 %)"
        )
