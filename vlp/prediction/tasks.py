"""A task of a checkpoint on single inputs: whether it can do it, what it lacks, and its records as JSON lines.

No task is named here: each file of conf/task whose class has `predict` is a task of `vlp predict`.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import yaml

from vlp.data.collate import Collate, LoadedExample, pad_images
from vlp.data.images import open_image
from vlp.data.rounds import round_key
from vlp.launch.config.choices import options
from vlp.prediction.inputs import PredictionInput
from vlp.predictor import Predictor
from vlp.structures import NO_IMAGE, Batch, Image, Sample
from vlp.system.errors import UserError
from vlp.system.suggest import nearest_option
from vlp.tasks.base import Task
from vlp.verbs.labels import Labels
from vlp.verbs.pictures import photo_frame

TEXT_OPTIONS = {
    "question": "--question TEXT",
    "captions": "--caption TEXT",
    "choices": "--choice TEXT",
    "rationales": None,  # four with each question: a file says them
}
# keys of a record that number the inputs; a line has the image instead
POSITIONS = ("id", "sample", "image_id", "question_id", "round_id")


def prepare_task(predictor: Predictor, name: str, *, labels: Sequence[str] = (), answers: Sequence[str] = ()) -> Task:
    """Ready to predict.  labels, answers: names of classes and candidate answers.  Raises ValueError where the checkpoint
    cannot do it, or nobody can."""
    tasks = options("task")
    if name not in tasks:
        raise UserError(f"there is no task {name}:{nearest_option(name, tasks)} {_list_possible_tasks(predictor)}")
    task = _find_task(predictor, name)
    if isinstance(task, str):
        raise UserError(f"{name} is not possible with this checkpoint: {task}. {_list_possible_tasks(predictor)}")
    stored_answers = tuple(getattr(task, "answers", ()))
    names = Labels(tuple(labels), answer_names=stored_answers or tuple(answers) or None, name="inputs")
    if stored_answers and answers:
        raise UserError(
            f"--answer: this checkpoint has an answer vocabulary of its own, of {len(stored_answers)} answers"
        )
    if len(set(labels)) < len(labels):
        raise UserError(f"--label: {next(x for x in labels if labels.count(x) > 1)!r} is given more than once")
    if lacking := task.lacking(names):
        raise UserError(f"{name} needs {lacking}")
    task.eval().to(predictor.device)
    task.prepare(predictor.model, predictor.tokenizer_of_texts(), names)
    return task


def prediction_lines(
    predictor: Predictor, task: Task, name: str, inputs: Sequence[PredictionInput], *, batch_size: int = 32
) -> Iterator[str]:
    """One JSON object a line for each input, in order: image (or images), the texts that it was asked about, and what
    `Task.predict` says. Raises ValueError for an input that lacks what the task requires, before the first line."""
    for item in inputs:
        _check_input(task, name, item)
    if task.line_per_caption:
        inputs = [replace(item, captions=(caption,)) for item in inputs for caption in item.captions]
    for start in range(0, len(inputs), batch_size):
        chunk = inputs[start : start + batch_size]
        batch = _build_batch(predictor, task, chunk, start).to(predictor.device)
        with torch.inference_mode():
            records = task.predict(predictor.model, batch)
        for item, record in zip(chunk, records, strict=True):
            images = [str(path) for path in item.images]
            answer = {key: value for key, value in record.items() if key not in POSITIONS}
            line: dict[str, Any] = {"image": images[0]} if len(images) == 1 else {"images": images} if images else {}
            if item.image_id is not None:
                line |= {"image_id": item.image_id, "round_id": item.round_id}
            yield json.dumps(line | _task_texts(task, item) | answer, ensure_ascii=False) + "\n"


def submission_text(task: Task, inputs: Sequence[PredictionInput], lines: Iterable[str]) -> Iterator[str]:
    """The file that a leaderboard takes, as one JSON list, from the lines of all inputs.  Raises UserError, before the first of
    them, where an input lacks the numbers."""
    for item in inputs:
        if item.image_id is None:
            raise UserError(
                f"{item.location}: a .json file is for the leaderboard, which needs image_id and round_id of each line: give "
                "them in a JSONL file, or name a .jsonl file with --out"
            )
    records = [json.loads(line) for line in lines]
    yield json.dumps([{key: record[key] for key in task.submission_keys} for record in records]) + "\n"


def _task_texts(task: Task, item: PredictionInput) -> dict[str, Any]:
    """The texts of an input that the task is about, under the names of `Sample`."""
    texts = {
        "question": item.question,
        "captions": item.captions,
        "choices": item.choices,
        "rationales": item.rationales,
    }
    needed = {*task.requires, *task.predicts_from}
    found = {key: value for key, value in texts.items() if {key, key.removesuffix("s")} & needed}
    return found | ({"history": item.history} if "question" in found and item.history else {})


def _check_input(task: Task, name: str, item: PredictionInput) -> None:
    if len(item.images) != task.images and not (task.image_optional and not item.images):
        want = "one image" if task.images == 1 else 'two images, as "images": [left, right] of a JSONL file'
        raise UserError(f"{item.location}: {name} is about {want}")
    for key, value in _task_texts(task, item).items():
        if not value and key in TEXT_OPTIONS:
            option = TEXT_OPTIONS[key]
            raise UserError(
                f"{item.location}: {name} needs {'' if option is None else f'{option}, or '}{key} in a JSONL file"
            )


def _build_batch(predictor: Predictor, task: Task, inputs: Sequence[PredictionInput], start: int) -> Batch:
    if predictor.transform is None and any(item.images for item in inputs):
        raise UserError("this checkpoint's image preprocessing is not one that vlp knows")
    transform: Any = predictor.transform
    photos = [[open_image(path) for path in item.images] for item in inputs]
    pixels = [[transform(photo) for photo in row] for row in photos]
    frames = [photo_frame(transform, row[0]) if row else None for row in photos]
    samples = [
        Sample(
            id=start + position,
            sample=start + position if item.image_id is None else round_key(item.image_id, item.round_id or 0),
            image=item.images[0] if item.images else NO_IMAGE,
            **_task_texts(task, item),
        )
        for position, item in enumerate(inputs)
    ]
    examples = [
        LoadedExample(
            sample=sample, seed=sample.id, pixels=row[0] if row else None, captions=sample.captions, frame=frame
        )
        for sample, row, frame in zip(samples, pixels, frames, strict=True)
    ]
    dialogue = "choices" in task.predicts_from or any(item.history for item in inputs)
    fields = frozenset(("captions", "question", "choices", "rationales", *(("history",) if dialogue else ())))
    collate = Collate(tokenizer=predictor.tokenizer_of_texts(), available_fields=fields, classes=0, training=False)
    batch = collate(examples)
    assert batch is not None
    return _pair_images(batch, pixels) if task.images == 2 else batch


def _pair_images(batch: Batch, pixels: Sequence[Sequence[torch.Tensor]]) -> Batch:
    flat = pad_images([image for row in pixels for image in row])
    size = None if flat.size is None else flat.size.unflatten(0, (len(pixels), -1))
    image = Image(pixels=flat.pixels.unflatten(0, (len(pixels), -1)), size=size)
    return Batch(id=batch.id, sample=batch.sample, seed=batch.seed, image=image, question=batch.question, raw=batch.raw)


def _find_task(predictor: Predictor, name: str) -> Task | str:
    """The checkpoint's own task, or one without parameters; else a sentence that says why neither exists."""
    target = str(yaml.safe_load(options("task")[name].read_text(encoding="utf-8"))["_target_"])
    module, _, class_name = target.rpartition(".")
    task_class = getattr(importlib.import_module(module), class_name)
    if task_class.predict is Task.predict:
        return "it only measures, and has no prediction for a single image"
    task: Any = dict(predictor.objectives.items()).get(name)
    if task is None:
        parameters = inspect.signature(task_class).parameters.values()
        if task_class.predicts_by_head or any(parameter.default is parameter.empty for parameter in parameters):
            return f"it has no head for {name}"
        task = task_class()
    for part in task.needs:
        if getattr(predictor.model, part, None) is None:
            return f"its model has no {part}"
    max_images = getattr(predictor.model.fusion, "images", 1)
    if task.images > max_images:
        return f"its fusion takes {max_images} image at once and {name} is about {task.images}"
    for head in task.predict_heads:
        if head not in predictor.objectives:
            return f"it has no head for {head}"
        task.linked[head] = predictor.objectives[head]
    return task


def _list_possible_tasks(predictor: Predictor) -> str:
    found = [name for name in options("task") if not isinstance(_find_task(predictor, name), str)]
    return f"This checkpoint can do {', '.join(found)}" if found else "This checkpoint can do none of the tasks"
