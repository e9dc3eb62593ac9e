from __future__ import annotations

import pytest
import transformers

from tests.system.compat.contract import Contract, broken
from vlp.system.compat.transformers import own_image_steps

CONTRACTS = [
    Contract(
        name=f"transformers.image_processing_backends:{backend}.{step}",
        needed="know whether a processor preprocesses images by the common rules",
        used_in="transformers.own_image_steps()",
    )
    for backend in ("TorchvisionBackend", "PilBackend")
    for step in ("_preprocess", "resize", "center_crop", "rescale", "normalize", "convert_to_rgb")
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.id)
def test_contract(contract: Contract) -> None:
    sentence = broken(contract)
    assert sentence is None, sentence


def test_what_a_processor_does_in_its_own_way() -> None:
    assert own_image_steps(transformers.CLIPImageProcessor()) == set()
    assert own_image_steps(transformers.CLIPImageProcessorPil()) == set()
    assert own_image_steps(transformers.LevitImageProcessor()) == {"resize"}
    assert "_preprocess" in own_image_steps(object())
