from __future__ import annotations

import gc

import pytest
import torch

from vlp.models import equal_inputs
from vlp.models.equal_inputs import EmbeddingStore, content_keys, first_equal_positions
from vlp.models.features import flatten_captions
from vlp.structures import Batch, Image, Text


def text(*rows: list[int], length: int) -> Text:
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    mask = torch.tensor([[position < len(row) for position in range(length)] for row in rows])
    return Text(ids=ids, mask=mask)


def test_padding_does_not_make_texts_different() -> None:
    short, long = content_keys(text([5, 6], [7], length=2)), content_keys(text([5, 6], [5, 6, 0], length=4))
    assert short[0] == long[0]
    assert len({*short, *long}) == 3  # a real token 0 is not padding


def test_padding_does_not_make_images_different() -> None:
    pixels = torch.randint(0, 256, (1, 3, 4, 6), dtype=torch.uint8)
    padded = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    padded[..., :4, :6] = pixels
    size = torch.tensor([[4, 6]])
    assert content_keys(Image(pixels=padded, size=size)) == content_keys(Image(pixels=pixels))
    assert content_keys(Image(pixels=padded)) != content_keys(Image(pixels=pixels))


def test_shape_and_type_count() -> None:
    zeros = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
    images = (Image(pixels=zeros), Image(pixels=zeros.mT.contiguous()), Image(pixels=zeros.float()))
    assert len({content_keys(image)[0] for image in images}) == 3


def test_first_equal() -> None:
    assert first_equal_positions([b"a", b"b", b"a", b"c", b"b"]).tolist() == [0, 1, 0, 3, 1]
    assert first_equal_positions([]).tolist() == []


def test_equal_inputs_of_different_batches_have_the_first_embedding() -> None:
    store = EmbeddingStore()
    store.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), text([5, 6], [7], length=2))
    store.add(torch.tensor([[9.0, 9.0], [1.5, 2.5]]), text([8], [5, 6], length=3))
    assert store.gather_embeddings(torch.device("cpu")).tolist() == [[1, 2], [3, 4], [9, 9], [1, 2]]
    assert EmbeddingStore().gather_embeddings(torch.device("cpu")).shape == (0, 0)


def test_a_batch_that_several_tasks_share_is_digested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[object] = []

    def digests(inputs: Image | Text) -> list[bytes]:
        digested.append(inputs)
        return original(inputs)

    original = equal_inputs._digests
    monkeypatch.setattr(equal_inputs, "_digests", digests)
    captions = Text(ids=torch.randint(1, 30, (3, 2, 5)), mask=torch.ones(3, 2, 5, dtype=torch.bool))
    ids = torch.arange(3)
    image = Image(pixels=torch.rand(3, 3, 4, 4))
    batch = Batch(id=ids, sample=ids, seed=ids, image=image, caption=captions)
    for _ in range(3):  # retrieval, reranking, matching
        assert content_keys(image) == original(image)
        assert content_keys(flatten_captions(batch)[0]) == original(captions.real_rows()[0])
    assert len(digested) == 2
    del image, batch
    gc.collect()
    other = Image(pixels=torch.rand(3, 3, 4, 4))
    assert content_keys(other) == original(other), "a record that took the place of another in memory"
