"""A run that starts from a checkpoint has its tokenizer, and no part with which the same weights mean something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import vlp
from tests.runs import SMALL_CLIP
from vlp.build import build
from vlp.checkpoints import agreement, load
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.tensor_files import FORMAT
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import freeze
from vlp.launch.runs.provenance import parts_of_checkpoint
from vlp.system.errors import UserError
from vlp.tokenizers.trained import TrainedTokenizer
from vlp.training.assemble import RunParts, assemble
from vlp.training.module import portable_config

CAPTION = ["a large red circle above the blue square"]
SIZES = SMALL_CLIP[6:11]  # of the tokenizer and the model


class Trained(NamedTuple):
    folder: Path
    scenes: Path
    parts: RunParts


def composed(scenes: Path, *overrides: str) -> dict[str, Any]:
    composer = Composer(conf=conf_folder(), config_name="train", of_checkpoint=parts_of_checkpoint)
    common = [f"data.root={scenes}", *SMALL_CLIP[:6], "task=[retrieval]", "logger=none"]
    return resolve_config(composer.compose([*common, *overrides]), scenes.parent / "unused")


def assembled(scenes: Path, *overrides: str, resumed: dict[str, Any] | None = None) -> RunParts:
    parts = assemble(composed(scenes, *overrides), scenes.parent, resumed=resumed)
    parts.data.prepare_data()
    parts.data.setup("fit")
    return parts


def write_run(folder: Path, scenes: Path, *overrides: str) -> RunParts:
    """A run folder as training leaves it, without the training."""
    folder.mkdir()
    config = composed(scenes, *overrides)
    freeze(folder, config, "train")
    parts = assembled(scenes, *overrides)
    tokenizer = parts.data.tokenizer
    content = {
        "vlp_format": FORMAT,
        "config": portable_config(config, parts.module.model, parts.module.tasks, tokenizer.size),
        "tokenizer_json": tokenizer.to_json(),
        "state_dict": parts.module.state_dict(),
    }
    (folder / "checkpoints").mkdir()
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    return parts


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("agreement")
    return Trained(folder / "run", folder / "scenes", write_run(folder / "run", folder / "scenes", *SIZES))


def ids(parts: RunParts) -> list[list[int]]:
    return parts.data.tokenizer(CAPTION).ids.tolist()


def test_the_tokenizer_of_the_checkpoint_is_taken_with_other_captions(trained: Trained) -> None:
    other = assembled(trained.scenes, *SIZES, "data.scene_seed=7")
    assert ids(other) != ids(trained.parts), "other captions train another tokenizer"
    fine_tuned = assembled(trained.scenes, *SIZES, "data.scene_seed=7", f"checkpoint={trained.folder}")
    assert ids(fine_tuned) == ids(trained.parts)


def test_what_is_left_open_is_the_checkpoints_run(trained: Trained) -> None:
    """Sizes of model and tokenizer are not repeated."""
    parts = assembled(trained.scenes, "data.scene_seed=7", f"checkpoint={trained.folder / 'checkpoints' / 'last.ckpt'}")
    assert ids(parts) == ids(trained.parts)
    assert parts.module.model.text.width == 16


def test_a_resumed_run_keeps_its_tokenizer_where_the_data_changed(trained: Trained) -> None:
    content = torch.load(trained.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert ids(assembled(trained.scenes, *SIZES, "data.scene_seed=7", resumed=content)) == ids(trained.parts)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokenizer.size=400", "was trained with tokenizer.size=300.*asks for tokenizer.size=400"),
        ("tokenizer.context_length=20", "was trained with tokenizer.context_length=77"),
        ("model.text.heads=2", "model.text.heads=2, not 4"),
        ("model.text.activation=quick_gelu", "model.text.activation=quick_gelu, not gelu"),
        ("model.text.pool=argmax", "model.text.pool=argmax, not end"),
        ("+model.text.causal=false", "model.text.causal=False, not True"),
        ("+model.vision.mean=[0.1,0.1,0.1]", r"model.vision.mean=\[0.1,0.1,0.1\], not \[0.5,0.5,0.5\]"),
    ],
)
def test_a_part_that_changes_the_meaning_of_the_weights_is_refused(
    trained: Trained, override: str, message: str
) -> None:
    with pytest.raises(UserError, match=rf"checkpoint={trained.folder}.*{message}"):
        assemble(composed(trained.scenes, *SIZES, override, f"checkpoint={trained.folder}"), trained.folder)


def test_a_text_tower_of_another_class_has_its_own_tokenizer(trained: Trained) -> None:
    """Nothing of the checkpoint's text tower is taken, so its tokenizer belongs to nothing here."""
    start = ("tokenizer.size=400", f"checkpoint={trained.folder}", "checkpoint_strict=false")
    parts = assembled(trained.scenes, *SIZES[1:], *start, "model/text=bert_tiny")
    assert parts.data.tokenizer.size == parts.module.model.text.vocabulary_size == 400
    vision = trained.parts.module.model.vision.state_dict()
    assert all(torch.equal(value, vision[key]) for key, value in parts.module.model.vision.state_dict().items())
    with pytest.raises(UserError, match=r"was trained with tokenizer\.size=300"):
        assemble(composed(trained.scenes, *SIZES[1:], *start), trained.folder)


def test_another_image_size_is_said(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assemble(composed(trained.scenes, "model.vision.image_size=32", f"checkpoint={trained.folder}"), trained.folder)
    assert "was trained with model.vision.image_size=64; this run uses 32" in capsys.readouterr().err


def wordpiece(folder: Path, *words: str) -> Path:
    folder.mkdir(exist_ok=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return folder / "vocab.txt"


def test_a_wordpiece_checkpoint_keeps_its_vocabulary(trained: Trained, tmp_path: Path) -> None:
    words = ("a", "large", "red", "circle", "above", "the", "blue", "square")
    mine, other = wordpiece(tmp_path / "mine", *words), wordpiece(tmp_path / "other", *reversed(words))
    sizes = (*SIZES[1:], "tokenizer=wordpiece")
    parts = write_run(tmp_path / "run", trained.scenes, *sizes, f"tokenizer.vocabulary={mine}")
    again = assembled(trained.scenes, f"checkpoint={tmp_path / 'run'}")
    assert ids(again) == ids(parts)
    for lines in ((*sizes, f"tokenizer.vocabulary={other}"), (*SIZES[1:], "tokenizer=trained", "tokenizer.size=300")):
        with pytest.raises(UserError, match="was trained with"):
            assemble(composed(trained.scenes, *lines, f"checkpoint={tmp_path / 'run'}"), tmp_path)


def test_a_checkpoint_of_another_format_is_refused_with_a_tokenizer_trained_anew(trained: Trained) -> None:
    model = trained.parts.module.model
    foreign = Checkpoint(config={"model": {}}, state={"text.embedding.weight": torch.zeros(1)})
    own = TrainedTokenizer(size=300)
    with pytest.raises(
        UserError, match="was trained with another tokenizer than this run's TrainedTokenizer of 300 ids"
    ):
        agreement.check_foreign_tokenizer(foreign, model, own, source="checkpoint=ViT.pt")


def test_predictor_and_evaluate_take_no_other_tokenizer(trained: Trained, tmp_path: Path) -> None:
    predictor = vlp.load(trained.folder, tokenizer=wordpiece(tmp_path, "a", "red"))
    with pytest.raises(UserError, match="was trained with its own TrainedTokenizer of 300 ids"):
        predictor.embed_texts(["a red circle"])
    same = vlp.load(trained.folder, tokenizer=trained.parts.data.tokenizer)
    assert same.embed_texts(["a red circle"]).shape == (1, 8)
    for line in ("+tokenizer=clip", "tokenizer=clip", "+model.text.heads=2", "+transform=clip"):
        composer = Composer(conf=conf_folder(), config_name="evaluate", of_checkpoint=parts_of_checkpoint)
        with pytest.raises(ConfigError, match="evaluate takes model, tokenizer and transform from the checkpoint"):
            composer.compose([f"checkpoint={trained.folder}", line])


def entailment(*classes: str) -> Any:
    node = {"_target_": "vlp.tasks.visual_entailment.VisualEntailment", "width": 4}
    return build(node | ({"classes": list(classes)} if classes else {}))


def test_labels_of_a_head_in_another_order_are_refused() -> None:
    head = entailment()
    heads = {f"ve.{key}": value for key, value in head.state_dict().items()}
    node = {"_target_": "vlp.tasks.visual_entailment.VisualEntailment", "width": 4}
    checkpoint = Checkpoint(config={"model": {}, "objectives": {"ve": node}}, state={}, heads=heads)
    agreement.check_labels(checkpoint, {"ve": head}, source="checkpoint=a")
    agreement.check_labels(checkpoint, {"ve": entailment("yes", "no")}, source="checkpoint=a")  # of another size: anew
    swapped = entailment("contradiction", "neutral", "entailment")
    with pytest.raises(UserError, match=r"output 0 of its head for ve is 'entailment', .* has 'contradiction' there"):
        agreement.check_labels(checkpoint, {"ve": swapped}, source="checkpoint=a")


def save_untrained(folder: Path, config: dict[str, Any]) -> Path:
    load.save(Checkpoint(config={"model": config}, state=dict(build(config).state_dict())), folder / "a.ckpt")
    return folder / "a.ckpt"


def test_a_decoder_without_vocabulary_asks_for_one(trained: Trained, tmp_path: Path) -> None:
    config = composed(trained.scenes, "model=encoder_decoder_tiny", "objective=[lm]", "task=[captioning]", SIZES[0])
    predictor = vlp.load(save_untrained(tmp_path, config["model"]))
    assert predictor.tokenizer is None
    with pytest.raises(FileNotFoundError, match="holds no vocabulary: give tokenizer=PATH"):
        predictor.require_tokenizer()


def test_a_model_without_texts_says_so(tmp_path: Path) -> None:
    vision = {"_target_": "vlp.models.vision.small_cnn.SmallCnn", "image_size": 16, "channels": 2}
    predictor = vlp.load(save_untrained(tmp_path, {"_target_": "vlp.models.vlm.VisionLanguageModel", "vision": vision}))
    with pytest.raises(UserError, match="neither a text tower nor a decoder"):
        predictor.require_tokenizer()
