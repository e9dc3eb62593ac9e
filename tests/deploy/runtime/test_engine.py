"""Each verb of an artifact against the predictor's, for small models of each family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.deploy.runtime.artifacts import open_with_torch, photos
from tests.deploy.runtime.predictors import ANSWERS, build
from vlp.deploy.runtime.engine import Engine
from vlp.predictor import Predictor
from vlp.system.errors import UserError

TEXTS = ["a red dog", "a blue cat", "what colour is the dog", "a red dog", ""]
Pair = tuple[Predictor, Engine]


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """The predictor named by the parameter and its artifact, which take two inputs at a time."""
    predictor = build(request.param)
    engine = open_with_torch(predictor, tmp_path, monkeypatch)
    predictor.batch_size = engine.batch_size = 2
    return predictor, engine


def close(found: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    """Equal words, and numbers to within a tolerance, in any lists and dictionaries."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        close(list(found.values()), list(wanted.values()), tolerance)
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, other, tolerance)
    elif isinstance(wanted, (str, type(None))):
        assert found == wanted
    else:
        np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("pair", ["clip"], indirect=True)
def test_embeddings_similarities_and_classes(pair: Pair) -> None:
    predictor, engine = pair
    assert (engine.width, engine.manifest.image_size) == (12, (32, 32))
    images, texts = engine.embed_images(photos()), engine.embed_texts(TEXTS)
    assert (images.dtype, texts.dtype) == (np.float32, np.float32)
    close(images, predictor.embed_images(photos()))
    close(texts, predictor.embed_texts(TEXTS))
    np.testing.assert_array_equal(images[3], images[0])
    np.testing.assert_array_equal(texts[3], texts[0])
    logits = engine.similarity(photos(), TEXTS)
    close(logits, predictor.similarity(photos(), TEXTS), 2e-4)
    np.testing.assert_array_equal(logits[3], logits[0])
    np.testing.assert_array_equal(logits[:, 3], logits[:, 0])
    close(engine.compare(images, texts), logits)
    for labels, templates in ((["dog", "cat"], None), (["dog", "cat"], ["{}", "a red {}"]), (None, None)):
        close(engine.classify(photos(), labels, templates), predictor.classify(photos(), labels, templates), 2e-4)
    np.testing.assert_array_equal(engine.load_pixels(photos()), predictor.load_pixels(photos()).pixels.numpy())
    ids, mask = engine.tokenize(TEXTS)
    close(engine.embed_tokens(ids, mask), texts)


@pytest.mark.parametrize("pair", ["rank", "classify", "generate"], indirect=True)
def test_matches_and_answers(pair: Pair, request: pytest.FixtureRequest) -> None:
    predictor, engine = pair
    found = engine.match(photos(), TEXTS)
    close(found, predictor.match(photos(), TEXTS))
    assert found.std() > 1e-3, "they differ"
    same = engine.match(photos()[:1] * 3, TEXTS[:1] * 3)
    assert same[0] == same[1] == same[2], "in whatever batch"
    answers = engine.answer(photos(), TEXTS)
    close(answers, predictor.answer(photos(), TEXTS))
    assert answers[0] is not answers[3]
    kind = engine.manifest.answers.kind  # type: ignore[union-attr]
    if kind == "rank":
        given = ["blue", "a red dog", "two"]
        close(engine.answer(photos(), TEXTS, given), predictor.answer(photos(), TEXTS, given))
    else:
        with pytest.raises(UserError, match=r"answers: this artifact .* give none"):
            engine.answer(photos(), TEXTS, ["blue"])
    assert len({best[0][0] for best in answers}) >= 1
    assert set(ANSWERS) >= {name for best in answers for name, _ in best} or kind == "generate"


@pytest.mark.parametrize("pair", ["beams", "greedy"], indirect=True)
def test_captions(pair: Pair) -> None:
    predictor, engine = pair
    captions = engine.caption(photos())
    assert captions == predictor.caption(photos())
    assert len(set(captions)) > 1
    assert captions[3] == captions[0]


@pytest.mark.parametrize("pair", ["dense", "dense texts"], indirect=True)
def test_boxes_masks_and_classes_of_pixels(pair: Pair) -> None:
    predictor, engine = pair
    open_names = engine.manifest.detection.names == "texts"  # type: ignore[union-attr]
    for labels in (None, ["red", "blue"]) if open_names else (None,):
        for threshold in (None, 0.5, 0.0):
            wanted, found = (each.detect(photos(), labels, threshold=threshold) for each in (predictor, engine))
            for things, others in zip(found, wanted, strict=True):
                assert [thing["label"] for thing in things] == [thing["label"] for thing in others]
                close([[t["box"], t["score"]] for t in things], [[t["box"], t["score"]] for t in others], 1e-3)
                assert ["mask" in thing for thing in things] == ["mask" in thing for thing in others]
                shares = [(t["mask"] == o["mask"]).mean() for t, o in zip(things, others, strict=True) if "mask" in t]
                assert min(shares, default=1) > 0.995
        assert len(wanted[0]) > 3
        for found_map, wanted_map in zip(
            engine.segment(photos(), labels), predictor.segment(photos(), labels), strict=True
        ):
            assert tuple(found_map["names"]) == tuple(wanted_map["names"])
            assert found_map["classes"].shape == wanted_map["classes"].shape
            assert (found_map["classes"] == wanted_map["classes"]).mean() > 0.995
            assert found_map["classes"].max() > 0
    with pytest.raises(UserError, match=r"threshold=2\.0: give a probability"):
        engine.detect(photos(), threshold=2.0)
    if not open_names:
        with pytest.raises(UserError, match="labels: this head knows cat, dog, cow and no other names"):
            engine.detect(photos(), ["horse"])


@pytest.mark.parametrize("pair", ["rank"], indirect=True)
def test_heat_is_the_dot_product_of_places_and_phrase(pair: Pair) -> None:
    predictor, engine = pair
    grounded = engine.ground(photos(), TEXTS, heat=True)
    with torch.inference_mode():
        from vlp.models.dense.mask_clip import project_patches

        _, places = project_patches(predictor.model, predictor.load_pixels(photos()))
        wanted = (places * predictor.embed_texts(TEXTS)[:, None]).sum(-1).reshape(5, 4, 4)
    close([each["heat"] for each in grounded], list(wanted))
    close([each["score"] for each in grounded], predictor.match(photos(), TEXTS).tolist())
    for result, photo in zip(grounded, photos(), strict=True):
        left, top, right, bottom = result["box"]
        assert left < right <= photo.width + 1
        assert top < bottom <= photo.height + 1
    assert list(engine.ground(photos(1), TEXTS[:1])[0]) == ["box", "score"]


@pytest.mark.parametrize("pair", ["clip"], indirect=True)
def test_one_sentence_for_each_mistake(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine = pair
    for call, message in (
        (
            lambda: engine.caption(photos()),
            "this artifact cannot caption, which needs prefill and step; it has: embed_images, ",
        ),
        (lambda: engine.match(photos(), TEXTS), "this artifact cannot match, which needs pair"),
        (lambda: engine.embed_texts("a dog"), "texts must be a list with at least one entry"),
        (lambda: engine.embed_texts([]), "texts must be a list with at least one entry"),
        (lambda: engine.load_pixels("photo.jpg"), "images must be a list with at least one entry"),
        (lambda: engine.classify(photos(), ["cat", "cat"]), "'cat' comes twice"),
        (lambda: engine.classify(photos(), ["cat"], ["a photo"]), "'a photo' has no {} where the label goes"),
        (lambda: engine.classify(photos(), None, ["{}"]), "templates: classification of this artifact is trained"),
        (lambda: engine.ground(photos(2), TEXTS), "2 images and 5 phrases: give one for each image"),
        (
            lambda: engine.embed_pixels(np.zeros((1, 3, 8, 8), np.uint8)),
            "pixels of 1 x 3 x 8 x 8 (uint8): give uint8 of b x 3 x 32 x 32",
        ),
        (lambda: engine.embed_pixels(np.zeros((0, 3, 32, 32), np.uint8)), "pixels of 0 x 3 x 32 x 32"),
    ):
        with pytest.raises(UserError) as raised:
            call()
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    monkeypatch.setattr(engine.graphs, "run", lambda *_: {"image_embeds": np.full((1, 12), np.nan, np.float32)})
    with pytest.raises(UserError, match="embeddings contain NaN or infinity"):
        engine.embed_images(photos(1))
