"""/v1/embeddings answers as OpenAI's, and each vector is the engine's own."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.deploy.serving.fake_engine import WIDTH, FakeEngine, photo
from tests.deploy.serving.requests_to import ask, data_uri, error_of, post, running, write_manifest
from vlp.deploy.serving.app import create_app
from vlp.deploy.serving.limits import ServingLimits

PATH = "/v1/embeddings"
TEXTS = ["a red car", "two dogs on a much longer lawn"]


def make_app(**limits: Any) -> Any:
    return create_app(FakeEngine(), warm=True, limits=ServingLimits(**limits))


def vectors(answer: dict[str, Any]) -> np.ndarray:
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


def test_texts() -> None:
    answer = post(make_app(), PATH, {"input": TEXTS, "model": "vlp", "user": "me"})
    assert answer.status_code == 200
    content = answer.json()
    np.testing.assert_array_equal(vectors(content), FakeEngine().embed_texts(TEXTS))
    assert (content["object"], content["model"]) == ("list", "vlp")
    tokens = sum(len(text) + 2 for text in TEXTS)
    assert content["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_a_single_text_is_a_list_of_one() -> None:
    found = vectors(post(make_app(), PATH, {"input": TEXTS[0]}).json())
    np.testing.assert_array_equal(found, FakeEngine().embed_texts(TEXTS[:1]))


def test_photos_by_modality() -> None:
    photos = [photo("red"), photo("blue", kind="PNG")]
    found = vectors(post(make_app(), PATH, {"input": [data_uri(p) for p in photos], "modality": "image"}).json())
    np.testing.assert_array_equal(found, FakeEngine().embed_images(photos))


def test_texts_and_photos_in_one_list() -> None:
    inputs = [{"image": data_uri(photo("red"))}, {"text": TEXTS[0]}, {"image": data_uri(photo("green"))}, TEXTS[1]]
    content = post(make_app(), PATH, {"input": inputs}).json()
    engine = FakeEngine()
    red, green = engine.embed_images([photo("red"), photo("green")])
    car, dogs = engine.embed_texts(TEXTS)
    np.testing.assert_array_equal(vectors(content), np.stack([red, car, green, dogs]))


def test_dimensions_are_cut_and_have_unit_length_again() -> None:
    found = vectors(post(make_app(), PATH, {"input": TEXTS, "dimensions": 5}).json())
    expected = FakeEngine().embed_texts(TEXTS)[:, :5]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)
    full = vectors(post(make_app(), PATH, {"input": TEXTS, "dimensions": WIDTH}).json())
    np.testing.assert_array_equal(full, FakeEngine().embed_texts(TEXTS))


def test_base64_holds_the_same_floats() -> None:
    content = post(make_app(), PATH, {"input": TEXTS, "encoding_format": "base64", "dimensions": 4}).json()
    found = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in content["data"]]
    np.testing.assert_array_equal(found, vectors(post(make_app(), PATH, {"input": TEXTS, "dimensions": 4}).json()))


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({}, 400, "invalid_field", "input: Field required"),
        ({"input": []}, 400, "invalid_field", "empty list"),
        ({"input": ""}, 400, "invalid_field", "not empty"),
        ({"input": None}, 400, "invalid_field", "expects words"),
        ({"input": ["a", 3.5]}, 400, "invalid_field", "input.1: expects words"),
        ({"input": [1, 2, 3]}, 400, "token_ids", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, 400, "token_ids", "token ids are not accepted"),
        ({"input": [{"text": "a", "image": "b"}]}, 400, "invalid_field", "an object has one field"),
        ({"input": [{"audio": "a"}]}, 400, "invalid_field", "an object has one field"),
        ({"input": "a", "modality": "audio"}, 400, "invalid_field", "modality: Input should be 'text' or 'image'"),
        ({"input": "a", "dimensions": 0}, 400, "invalid_field", "dimensions: Input should be greater"),
        ({"input": "a", "dimensions": True}, 400, "invalid_field", "dimensions"),
        ({"input": "a", "dimensions": 17}, 400, "invalid_field", "1 to 16"),
        ({"input": "a", "encoding_format": "int8"}, 400, "invalid_field", "'float' or 'base64'"),
        ({"input": "a", "trunc": 1}, 400, "invalid_field", "there is no field 'trunc'"),
        ({"input": "a", "model": "other"}, 404, "model_not_found", "this server has 'vlp'"),
        ({"input": "http://localhost/a.jpg", "modality": "image"}, 400, "no_fetching", "fetches nothing"),
        ({"input": data_uri(b"abc"), "modality": "image"}, 400, "invalid_image", "input.0: is no photo"),
        ({"input": data_uri(photo()[:-20]), "modality": "image"}, 400, "invalid_image", "cut off or damaged"),
        ({"input": ["a"] * 9}, 413, "too_many_items", "9 items, above the limit of 8"),
        ({"input": "a" * 101}, 413, "text_too_long", "101 characters, above the limit of 100"),
        ({"input": "please refuse"}, 400, "invalid_request", "too many tokens"),
        ({"input": "nan"}, 500, "internal_error", "could not be answered"),
        ({"input": "crash"}, 500, "internal_error", "could not be answered"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(fields: dict[str, Any], status: int, code: str, words: str) -> None:
    answer = post(make_app(items=8, characters=100), PATH, fields)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (status, code), error
    assert words in error["message"]


def test_a_model_is_pinned_by_its_fingerprint() -> None:
    app = make_app()
    pinned = f"vlp@{FakeEngine().fingerprint[:12]}"
    assert post(app, PATH, {"input": "a", "model": pinned}).status_code == 200
    assert post(app, PATH, {"input": "a", "model": "vlp@000000000000"}).status_code == 404


def test_a_model_without_a_tower_says_so() -> None:
    app = create_app(FakeEngine(verbs=("embed_texts",)), warm=True)
    error = error_of(post(app, PATH, {"input": data_uri(photo()), "modality": "image"}))
    assert error["code"] == "verb_missing"
    assert "it has: embed_texts" in error["message"]


def test_one_bad_text_does_not_hurt_others_of_its_batch() -> None:
    engine = FakeEngine()
    app = create_app(engine, warm=True)

    async def work(client: Any) -> list[int]:
        engine.open.clear()
        tasks = [
            asyncio.create_task(client.post(PATH, json={"input": text})) for text in ("a", "b", "crash", "nan", "c")
        ]
        while app.state.serving.model.texts.waiting < 4:
            await asyncio.sleep(0.001)
        engine.open.set()
        return [answer.status_code for answer in await asyncio.gather(*tasks)]

    assert ask(app, work) == [200, 200, 500, 500, 200]
    assert max(engine.batches) == 4


def test_a_full_queue_is_429_for_lists_too_and_recovers() -> None:
    engine = FakeEngine()
    app = create_app(engine, warm=True, limits=ServingLimits(queue=8, items=8))

    async def work(client: Any) -> None:
        engine.open.clear()
        tasks = [asyncio.create_task(client.post(PATH, json={"input": ["a"] * count})) for count in (1, 6)]
        while app.state.serving.model.texts.waiting < 6:
            await asyncio.sleep(0.001)
        for count in (3, 8):
            refused = await client.post(PATH, json={"input": ["b"] * count})
            assert (refused.status_code, error_of(refused)["code"]) == (429, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        engine.open.set()
        assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200, 200]
        assert (await client.post(PATH, json={"input": ["b"] * 8})).status_code == 200

    ask(app, work)


def test_what_takes_too_long_is_504_and_leaves_the_queue() -> None:
    engine = FakeEngine()
    app = create_app(engine, warm=True, limits=ServingLimits(seconds=0.2))

    async def work(client: Any) -> None:
        engine.open.clear()
        answers = await asyncio.gather(*(client.post(PATH, json={"input": "a"}) for _ in range(3)))
        assert {answer.status_code for answer in answers} == {504}
        assert error_of(answers[0])["code"] == "timeout"
        assert app.state.serving.model.texts.waiting == 0
        engine.open.set()

    ask(app, work)
    assert sum(engine.batches) == 1 or engine.batches[0] == 1  # those that waited were dropped


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("served")
    write_manifest(folder, name="a")
    with running(folder, "key=k3y-of-twenty-letters") as (_, address):
        yield address


def test_openai_client(address: str) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="k3y-of-twenty-letters", max_retries=5)
    expected = FakeEngine().embed_texts(TEXTS)
    found = client.embeddings.create(model="fake", input=TEXTS)  # it asks for base64 by itself
    np.testing.assert_array_equal([item.embedding for item in found.data], expected)
    found = client.embeddings.create(model="fake", input=TEXTS, encoding_format="float", dimensions=8)
    assert [len(item.embedding) for item in found.data] == [8, 8]
    assert found.usage.prompt_tokens > 0
    extra = {"modality": "image"}
    found = client.embeddings.create(model="fake", input=[data_uri(photo("red"))], extra_body=extra)
    np.testing.assert_array_equal(found.data[0].embedding, FakeEngine().embed_images([photo("red")])[0])
    assert [model.id for model in client.models.list()] == ["fake"]
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        client.embeddings.create(model="gpt", input="a")
    with pytest.raises(openai.BadRequestError, match="token ids are not accepted"):
        client.embeddings.create(model="fake", input=[1, 2])
    with pytest.raises(openai.AuthenticationError, match="needs its key"):
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong").embeddings.create(model="fake", input="a")
