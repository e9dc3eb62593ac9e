"""A task of a checkpoint on single inputs: whether it can do it, what it lacks, and its records as JSON lines.

No task is named here: one that stands in conf/task and has `predict` is one of `vlp predict`.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from vlp.data.collate import Collate, LoadedExample, pad_images
from vlp.data.images import open_image
from vlp.launch.config.choices import options
from vlp.prediction.inputs import Input
from vlp.predictor import Predictor
from vlp.structures import Batch, Image, Sample
from vlp.system.errors import UserError
from vlp.system.suggest import nearest_option
from vlp.tasks.base import Task

OPTIONS = {"question": "--question", "captions": "--caption", "choices": "--choice"}
# of a record: the place among the inputs, which the image names better
POSITIONS = ("id", "sample", "image_id", "question_id")


@dataclass(frozen=True)
class DataNames:
    """What a task takes of a data set in `prepare`."""

    class_names: tuple[str, ...]
    answer_names: tuple[str, ...] | None
    name: str = "inputs"


def prepare_task(predictor: Predictor, name: str, *, labels: Sequence[str] = (), answers: Sequence[str] = ()) -> Task:
    """Ready to predict.  labels, answers: names of classes and candidate answers.  Raises ValueError where the checkpoint
    cannot do it, or nobody can."""
    tasks = options("task")
    if name not in tasks:
        raise UserError(f"there is no task {name}:{nearest_option(name, tasks)} {_list_possible_tasks(predictor)}")
    task = _find_task(predictor, name)
    if isinstance(task, str):
        raise UserError(f"{name} is not possible with this checkpoint: {task}. {_list_possible_tasks(predictor)}")
    own = tuple(getattr(task, "answers", ()))
    given = DataNames(class_names=tuple(labels), answer_names=own or tuple(answers) or None)
    if own and answers:
        raise UserError(f"--answer: this checkpoint has an answer vocabulary of its own, of {len(own)} answers")
    if len(set(labels)) < len(labels):
        raise UserError(f"--label: {next(x for x in labels if labels.count(x) > 1)!r} is given more than once")
    if lacking := task.lacking(given):
        raise UserError(f"{name} needs {lacking}")
    task.eval().to(predictor.device)
    task.prepare(predictor.model, predictor.require_tokenizer(), given)
    return task


def prediction_lines(
    predictor: Predictor, task: Task, name: str, inputs: Sequence[Input], *, batch_size: int = 32
) -> Iterator[str]:
    """One JSON object a line for each input, in order: image (or images), the texts that it was asked about, and what
    `Task.predict` says. Raises ValueError for an input that lacks what the task requires, before the first line."""
    for one in inputs:
        _check_input(task, name, one)
    for start in range(0, len(inputs), batch_size):
        part = inputs[start : start + batch_size]
        batch = _batch(predictor, task, part, start).to(predictor.device)
        with torch.inference_mode():
            records = task.predict(predictor.model, batch)
        for one, record in zip(part, records, strict=True):
            images = [str(path) for path in one.images]
            answer = {key: value for key, value in record.items() if key not in POSITIONS}
            line: dict[str, Any] = {"image": images[0]} if len(images) == 1 else {"images": images}
            yield json.dumps(line | _task_texts(task, one) | answer, ensure_ascii=False) + "\n"


def _task_texts(task: Task, one: Input) -> dict[str, Any]:
    """The texts of an input that the task is about, under the names of `Sample`."""
    given = {"question": one.question, "captions": one.captions, "choices": one.choices}
    return {key: value for key, value in given.items() if {key, key.removesuffix("s")} & set(task.requires)}


def _check_input(task: Task, name: str, one: Input) -> None:
    if len(one.images) != task.images:
        want = "one image" if task.images == 1 else 'two images, as "images": [left, right] of a JSONL file'
        raise UserError(f"{one.place}: {name} is about {want}")
    for key, value in _task_texts(task, one).items():
        if not value:
            raise UserError(f"{one.place}: {name} needs {OPTIONS[key]} TEXT, or {key} in a JSONL file")


def _batch(predictor: Predictor, task: Task, inputs: Sequence[Input], start: int) -> Batch:
    if predictor.transform is None:
        raise UserError("this checkpoint's image preprocessing is not one that vlp knows")
    pixels = [[predictor.transform(open_image(path)) for path in one.images] for one in inputs]
    samples = [
        Sample(
            id=start + place,
            sample=start + place,
            image=one.images[0],
            **_task_texts(task, one),
        )
        for place, one in enumerate(inputs)
    ]
    examples = [
        LoadedExample(sample=sample, seed=sample.id, pixels=row[0], captions=sample.captions)
        for sample, row in zip(samples, pixels, strict=True)
    ]
    given = frozenset(("captions", "question", "choices"))
    batch = Collate(tokenizer=predictor.require_tokenizer(), available_fields=given, classes=0, training=False)(examples)
    assert batch is not None
    return batch if len(pixels[0]) == 1 else _with_pairs(batch, pixels)


def _with_pairs(batch: Batch, pixels: Sequence[Sequence[torch.Tensor]]) -> Batch:
    flat = pad_images([image for row in pixels for image in row])
    size = None if flat.size is None else flat.size.unflatten(0, (len(pixels), -1))
    image = Image(pixels=flat.pixels.unflatten(0, (len(pixels), -1)), size=size)
    return Batch(id=batch.id, sample=batch.sample, seed=batch.seed, image=image, question=batch.question, raw=batch.raw)


def _find_task(predictor: Predictor, name: str) -> Task | str:
    """The checkpoint's own task, or one without parameters; else a sentence that says why neither exists."""
    target = str(yaml.safe_load(options("task")[name].read_text(encoding="utf-8"))["_target_"])
    module, _, word = target.rpartition(".")
    kind = getattr(importlib.import_module(module), word)
    if kind.predict is Task.predict:
        return "it only measures, and says nothing about a single image"
    task: Any = dict(predictor.objectives.items()).get(name)
    if task is None:
        if any(parameter.default is parameter.empty for parameter in inspect.signature(kind).parameters.values()):
            return f"it has no head for {name}"
        task = kind()
    for part in task.needs:
        if getattr(predictor.model, part, None) is None:
            return f"its model has no {part}"
    seen = getattr(predictor.model.fusion, "images", 1)
    if task.images > seen:
        return f"its fusion looks at {seen} image at once and {name} is about {task.images}"
    for head in task.predict_heads:
        if head not in predictor.objectives:
            return f"it has no head for {head}"
        task.linked[head] = predictor.objectives[head]
    return task


def _list_possible_tasks(predictor: Predictor) -> str:
    found = [name for name in options("task") if not isinstance(_find_task(predictor, name), str)]
    return f"This checkpoint can do {', '.join(found)}" if found else "This checkpoint can do none of the tasks"
