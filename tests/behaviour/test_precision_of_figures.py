"""With bf16 towers, what is ranked or compared is computed in float32, outside autocast: in every task, and in the predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import Tensor, nn

from tests.behaviour.test_world_evaluation import COLOURS, TOKENIZER, Shapes, tasks, toy, toy_predictor, write_images
from tests.processes import run_processes
from tests.towers import toy_model
from vlp.data.transforms import EvalTransform
from vlp.metrics.recall import count_ties, expected_hit
from vlp.models.fusion.late import LateFusion
from vlp.models.precision import apply_head
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.irtr import IRTR
from vlp.objectives.itm import ITM
from vlp.predictor import Predictor
from vlp.structures import Batch, Features, Image, Text, require
from vlp.tasks.retrieval import Retrieval
from vlp.tasks.vqa import VQA
from vlp.tasks.zero_shot import ZeroShot
from vlp.training.evaluator import Measurement

TRANSFORM = EvalTransform(image_size=4)


def bf16() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def is_rounded(values: Tensor) -> bool:
    """Whether bfloat16 holds the same numbers."""
    return torch.equal(values.float(), values.bfloat16().float())


@contextmanager
def recorded_outputs(*modules: nn.Module) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda _, inputs, output: found.append(output)) for module in modules]
    yield found
    for hook in hooks:
        hook.remove()


def measure(
    model: VisionLanguageModel, kind: str, named: dict[str, Any], folder: Path, precision: Any, batch_size: int = 4
) -> dict[str, float | None]:
    """As Lightning does it: batches within the run's precision, the rest outside."""
    data = Shapes(
        count=10, kind=kind, name=kind, root=folder, transform={"train": TRANSFORM, "eval": TRANSFORM}, tokenizer=TOKENIZER,
        eval_batch_size=batch_size,
    )  # fmt: skip
    measurement = Measurement(
        model=model, tasks=named, sources={kind: data}, tokenizer=TOKENIZER, split="test", model_precision=precision
    )
    for batch in data.test_dataloader():
        with torch.no_grad(), precision():
            measurement.update(batch, source=0, step=0)
    return measurement.finish()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


def test_many_classes_do_not_tie() -> None:
    """1,600 classes and 200 images in bf16: top-1 and top-5 are those of the same embeddings multiplied in float32."""
    torch.manual_seed(0)
    model = toy_model().eval()
    model.text.embedding = nn.Embedding(1600, 6)
    ids, label = torch.arange(200), torch.randint(1600, (200,))
    batch = Batch(id=ids, sample=ids, seed=ids, image=Image(pixels=torch.rand(200, 3, 4, 4)), label=label)
    names = torch.arange(1600)[:, None]
    task = ZeroShot(templates=["{}"])
    task.reset()
    with torch.no_grad(), bf16():
        task.class_names = tuple(map(str, range(1600)))
        task._class_embeds = model.embed_text(model.encode_text(Text(ids=names, mask=names >= 0)))
        features = Features(image_embed=model.embed_image(model.encode_image(require(batch.image))))
        task.update(model, batch, features)
        figures = task.compute(model)
        scores = task.scores(require(features.image_embed))
    assert not is_rounded(require(features.image_embed))
    cosines = require(features.image_embed).float() @ task._class_embeds.float().T
    ties = count_ties(cosines, nn.functional.one_hot(label, 1600).bool())
    for k in (1, 5):
        assert figures[f"top{k}"] == pytest.approx(100 * float(expected_hit(ties, k).mean()), abs=1e-6)
    assert all(len(row.unique()) == 1600 for row in scores), "no two classes tie"


HEADS: dict[str, tuple[str, Callable[[Any, VisionLanguageModel], nn.Module]]] = {
    "reranked": ("captions", lambda task, _: task.linked["itm"].head),
    "matching": ("captions", lambda task, _: task.linked["itm"].head),
    "cloze": ("captions", lambda task, _: task.linked["mlm"].head),
    "captioning": ("captions", lambda _, model: model.part("decoder").head),
    "vqa": ("questions", lambda task, _: task.classifier),
    "visual_entailment": ("sentences", lambda task, _: task.head),
}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", HEADS)
def test_heads_compute_in_float32(folder: Path, name: str, precision: str) -> None:
    kind, head_of = HEADS[name]
    model, task = toy(), tasks(folder)[kind][name].eval()
    for head in task.linked.values():
        head.eval()
    context: Any = bf16
    if precision == "bf16-true":
        plugin = HalfPrecision("bf16-true")
        for module in (model, task, *task.linked.values()):
            plugin.convert_module(module)
        context = plugin.forward_context
    with recorded_outputs(head_of(task, model)) as outputs:
        measure(model, kind, {name: task}, folder, context)
    assert outputs
    assert {output.dtype for output in outputs} == {torch.float32}
    assert not all(map(is_rounded, outputs))


@pytest.mark.parametrize("kind", ["rank", "generate"])
def test_answers_of_a_decoder(folder: Path, kind: str) -> None:
    model = toy()
    model.decoder = type(model.part("decoder"))(
        vocabulary_size=TOKENIZER.size, memory_width=4, width=8, layers=1, heads=2, context_length=20, dropout=0.0
    ).eval()
    with recorded_outputs(model.part("decoder").head) as outputs:
        measure(model, "questions", {"vqa": VQA(kind=kind, answers=list(COLOURS))}, folder, bf16)
    assert {output.dtype for output in outputs} == {torch.float32}
    assert not all(map(is_rounded, outputs))


def test_a_classifier_ranks_logits_not_saturated_probabilities() -> None:
    """Beyond 17 the sigmoid of float32 is 1, whatever the logit is."""
    model = toy()
    task = VQA(answers=list(COLOURS), width=4).eval()
    with torch.no_grad():
        task.classifier[3].weight.zero_()
        task.classifier[3].bias.copy_(torch.tensor([20.0, 30.0, 25.0]))
    image, question = Image(pixels=torch.zeros(1, 3, 4, 4, dtype=torch.uint8)), TOKENIZER(["what"], kind="question")
    (answers,) = task.answer(model, TOKENIZER, image, question)
    assert [answer for answer, _ in answers] == ["green", "blue", "red"]
    assert {probability for _, probability in answers} == {1.0}


@pytest.mark.parametrize("fusion", ["cross", "late"])
def test_scores_of_pairs_are_not_rounded(fusion: str) -> None:
    torch.manual_seed(0)
    model = toy_model(fused=fusion == "cross", late=fusion == "late").eval()
    text = Text(ids=torch.randint(30, (40, 5)), mask=torch.ones(40, 5, dtype=torch.bool))
    with torch.no_grad(), bf16():
        tokens = model.encode_text(text)
        memory = model.project_memory(model.encode_image(Image(pixels=torch.rand(40, 3, 4, 4))))
        if isinstance(model.fusion, LateFusion):
            scores = [model.fusion.score(tokens, memory)]
        else:
            scores = [objective.eval().pair_score(model, tokens, memory) for objective in (ITM(width=4), IRTR(width=4))]
    for score in scores:
        assert score.dtype == torch.float32
        assert not is_rounded(score)


def test_pictures_show_cosines_of_float32(folder: Path) -> None:
    task = Retrieval()
    measure(toy(), "captions", {"retrieval": task}, folder, bf16)
    figures: Any = task.figures()
    assert not is_rounded(figures["similarity"]["scores"])


def test_class_embeddings_do_not_depend_on_the_position_of_the_source(folder: Path) -> None:
    """The first source is prepared before Lightning enters the run's precision, later ones within it."""
    sources = {
        name: Shapes(count=4, kind="classes", name=name, root=folder, transform={"train": TRANSFORM, "eval": TRANSFORM},
                     tokenizer=TOKENIZER, eval_batch_size=4) for name in ("first", "second")
    }  # fmt: skip
    task = ZeroShot(templates=["a {}"])
    measurement = Measurement(
        model=toy(), tasks={"zero_shot": task}, sources=sources, tokenizer=TOKENIZER, split="test", model_precision=bf16
    )
    embeds = []
    for position, data in enumerate(sources.values()):
        with torch.no_grad(), bf16():
            for batch in data.test_dataloader():
                measurement.update(batch, source=position, step=0)
        embeds.append(task._class_embeds)
    assert torch.equal(*embeds)  # type: ignore[arg-type]


@pytest.fixture
def predictor() -> Predictor:
    return toy_predictor()


def test_the_predictor_within_autocast(predictor: Predictor) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [
        PIL.Image.frombytes("RGB", (4, 4), torch.randint(256, (48,), generator=generator).byte().numpy().tobytes())
        for _ in range(9)
    ]
    texts = [f"a {colour} circle" for colour in COLOURS] * 3
    with bf16():
        values = {
            "embed_images": predictor.embed_images(images),
            "embed_texts": predictor.embed_texts(texts),
            "similarity": predictor.similarity(images, texts),
            "match": predictor.match(images, texts),
            "classify": torch.tensor([list(row.values()) for row in predictor.classify(images, list(COLOURS))]),
            "answer": torch.tensor([[p for _, p in row] for row in predictor.answer(images, texts)]),
            "fill_mask": torch.tensor([[p for _, p in row] for row in predictor.fill_mask(images, ["a [MASK]"] * 9)]),
        }
    for name, value in values.items():
        assert value.dtype == torch.float32, name
        assert not is_rounded(value), name


def test_a_head_in_training_keeps_the_precision_of_the_run() -> None:
    head = nn.Linear(4, 2)
    with bf16():
        assert apply_head(head, torch.rand(3, 4)).dtype == torch.bfloat16
        assert apply_head(head.eval(), torch.rand(3, 4).bfloat16()).dtype == torch.float32
    x = torch.rand(3, 4, dtype=torch.float64)
    assert apply_head(head.double(), x).dtype == torch.float64


def measure_on_rank(rank: int, world: int, folder: str) -> dict[str, Any]:
    named = tasks(Path(folder) / "out")
    figures: dict[str, float | None] = {}
    for kind, names in {"captions": ("retrieval", "compositionality", "matching"), "classes": ("zero_shot",)}.items():
        chosen = {name: named[kind][name] for name in names}
        figures |= measure(toy(), kind, chosen, Path(folder), bf16, batch_size=4 // world)
    return figures


def test_two_processes_rank_what_one_ranks(folder: Path, tmp_path: Path) -> None:
    expected = measure_on_rank(0, 1, str(folder))
    for figures in run_processes(2, measure_on_rank, tmp_path, str(folder)):
        assert figures == pytest.approx(expected, abs=1e-6)


def test_features_of_a_batch_are_float32_where_they_are_compared() -> None:
    model = toy_model().eval()
    with bf16(), torch.no_grad():
        tokens = model.encode_image(Image(pixels=torch.rand(3, 3, 4, 4)))
        assert tokens.pooled.dtype == torch.bfloat16, "the tower runs in the run's precision"
        features = Features(image=tokens, image_embed=model.embed_image(tokens))
    assert features.image_embed is not None
    assert features.image_embed.dtype == torch.float32
