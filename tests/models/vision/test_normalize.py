from __future__ import annotations

import torch

from vlp.launch.config.changes import changes
from vlp.models.vision.normalize import Normalize
from vlp.structures import Image

MEAN, STD = [0.49803922, 0.4, 0.1], [0.50196078, 0.25, 1.0]


def test_bytes_are_normalised_and_floats_are_left() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    found = Normalize(mean=MEAN, std=STD)(Image(pixels=pixels))
    expected = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(found, expected)
    assert Normalize(mean=MEAN, std=STD)(Image(pixels=expected)) is expected


def test_a_checkpoint_has_the_settings_as_they_were_given() -> None:
    """With those of single precision a run with mean in its YAML would refuse to resume."""
    settings = Normalize(mean=MEAN, std=STD).architecture()
    assert settings == {"mean": MEAN, "std": STD}
    config = {"model": {"vision": settings}}
    single = {name: torch.tensor(values).tolist() for name, values in settings.items()}  # of earlier versions
    assert changes({"model": {"vision": single}}, config) == []
    other = {"model": {"vision": settings | {"mean": [0.498, 0.4, 0.1]}}}
    assert len(changes(other, config)) == 1
