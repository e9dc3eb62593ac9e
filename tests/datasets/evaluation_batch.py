"""A split of a data set as one batch of evaluation."""

from __future__ import annotations

from vlp.data.datamodule import DataModule
from vlp.data.sampler import EvalSampler
from vlp.structures import Batch


def batch_of(data: DataModule, split: str) -> Batch:
    data.setup()
    length = len(data.split(split))
    (batch,) = data._make_loader(data._make_dataset(split), EvalSampler(length=length, batch_size=length))
    assert isinstance(batch, Batch)
    return batch
