from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

import vlp
from tests.checkpoints.test_load import MODEL
from vlp.build import build
from vlp.checkpoints import load
from vlp.checkpoints.load import Checkpoint
from vlp.predictor import Predictor
from vlp.tokenizers.trained import TrainedTokenizer

SIZE = 300
TRANSFORM = {"eval": {"_target_": "vlp.data.transforms.EvalTransform", "image_size": 16}}


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    """From a file alone, as a run leaves it."""
    tokenizer = TrainedTokenizer(size=SIZE, context_length=9)
    tokenizer.train(["a red dog", "a blue cat"])
    model = MODEL | {"text": MODEL["text"] | {"vocabulary_size": SIZE}}
    torch.manual_seed(0)
    checkpoint = Checkpoint(
        config={"model": model, "transform": TRANSFORM},
        state=dict(build(model).state_dict()),
        heads={},
        tokenizer_json=tokenizer.to_json(),
    )
    load.save(checkpoint, tmp_path / "a.ckpt")
    return vlp.load(tmp_path / "a.ckpt")


def pictures(count: int = 3) -> list[PIL.Image.Image]:
    return [PIL.Image.new("RGB", (20 + index, 30), (80 * index, 10, 200)) for index in range(count)]


def test_a_turned_photo_is_upright_as_a_file_and_as_a_picture(predictor: Predictor, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.linear_gradient("L").convert("RGB").resize((30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    as_file = predictor.embed_images([tmp_path / "turned.jpg"])
    assert torch.equal(as_file, predictor.embed_images([PIL.Image.open(tmp_path / "turned.jpg")]))


def test_a_picture_without_pixels_is_an_error(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="an image of 0 x 5 pixels"):
        predictor.embed_images([PIL.Image.new("RGB", (0, 5))])


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ("cat", None, "labels must be a list"),
        ([], None, "labels must be a list"),
        (["cat", "dog", "cat"], None, "'cat' comes twice"),
        (["cat", "dog"], "a {}", "templates must be a list"),
        (["cat", "dog"], ["a photo"], "'a photo' has no {} where the label goes"),
    ],
)
def test_invalid_labels_and_templates(predictor: Predictor, labels: Any, templates: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.classify(pictures(), labels, templates)


def test_embeddings_are_of_unit_length_whatever_the_batch(predictor: Predictor, tmp_path: Path) -> None:
    images = pictures()
    images[1].save(tmp_path / "1.png")
    mixed = [images[0], str(tmp_path / "1.png"), images[2]]
    embed = predictor.embed_images(mixed)
    torch.testing.assert_close(embed.norm(dim=1), torch.ones(3))
    predictor.batch_size = 2
    torch.testing.assert_close(predictor.embed_images(images), embed)
    texts = ["a dog", "a very red dog and a blue cat and more than nine tokens", ""]
    alone = torch.cat([predictor.embed_texts([text]) for text in texts])
    torch.testing.assert_close(predictor.embed_texts(texts), alone)


def test_similarity_is_the_models(predictor: Predictor) -> None:
    logits = predictor.similarity(pictures(), ["a dog", "a cat"])
    cosine = predictor.embed_images(pictures()) @ predictor.embed_texts(["a dog", "a cat"]).T
    torch.testing.assert_close(logits, cosine / 0.07)


def test_classes_are_ranked_by_similarity_to_their_prompts(predictor: Predictor) -> None:
    result = predictor.classify(pictures(2), ["dog", "cat"], templates=["{}"])
    expected = predictor.similarity(pictures(2), ["dog", "cat"]).softmax(-1)
    assert [list(row) for row in result] == [["dog", "cat"]] * 2
    torch.testing.assert_close(torch.tensor([list(row.values()) for row in result]), expected)
    prompts = ["a photo of a dog.", "a photo of a cat."]
    expected = predictor.similarity(pictures(2), prompts).softmax(-1)
    default = predictor.classify(pictures(2), ["dog", "cat"])
    torch.testing.assert_close(torch.tensor([list(row.values()) for row in default]), expected)


def test_a_single_input_instead_of_a_list_is_an_error(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="texts must be a list"):
        predictor.embed_texts("a dog")
    with pytest.raises(ValueError, match="images must be a list"):
        predictor.embed_images([])


def test_a_missing_vocabulary_is_an_error_only_when_strings_are_used(shared: Path) -> None:
    predictor = vlp.load(shared / "reference" / "openai_clip" / "vit" / "checkpoint.pt")
    assert predictor.embed_images(pictures(1)).shape == (1, 48)
    assert predictor.tokenizer is None
    with pytest.raises(FileNotFoundError, match="tokenizer=PATH"):
        predictor.embed_texts(["a dog"])
    tokenizer = TrainedTokenizer(size=512)
    tokenizer.train(["a dog"])
    given = vlp.load(shared / "reference" / "openai_clip" / "vit" / "checkpoint.pt", tokenizer=tokenizer)
    assert given.embed_texts(["a dog"]).shape == (1, 48)


def test_a_vocabulary_beside_or_given(shared: Path, tmp_path: Path) -> None:
    folder = shared / "reference" / "hf" / "clip_quickgelu"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    predictor = vlp.load(folder, tokenizer=tmp_path / "vocab.txt")
    assert predictor.require_tokenizer()(["a dog"]).ids.tolist() == [[2, 5, 6, 3]]
    (tmp_path / "vocab.txt").write_text("\n".join([*words, *(f"word{i}" for i in range(200))]))
    with pytest.raises(FileNotFoundError, match="tokenizer=gone: there is no such file or folder"):
        vlp.load(folder, tokenizer="gone")
    with pytest.raises(ValueError, match="208 tokens, but the checkpoint only 128"):
        vlp.load(folder, tokenizer=tmp_path).embed_texts(["a dog"])


def test_importing_vlp_imports_no_torch() -> None:
    command = "import sys, vlp; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
