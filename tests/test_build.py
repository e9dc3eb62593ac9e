from __future__ import annotations

import pytest
from torch import nn

from vlp.build import ALLOWED_IN_FILES, build
from vlp.models.projection.linear import LinearProjection

LINEAR = "vlp.models.projection.linear.LinearProjection"


def test_targets_are_called_inside_out() -> None:
    config = {"_target_": "torch.nn.Sequential", "_convert_": "all"}
    layers = build({"layers": [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}], "names": ["a"]})
    assert isinstance(layers["layers"][0], nn.Linear)
    assert layers["names"] == ["a"]
    assert isinstance(build(config), nn.Sequential)


def test_a_partial_waits_for_its_other_arguments() -> None:
    projection = build({"_target_": LINEAR, "_partial_": True, "width": 4}, allow=ALLOWED_IN_FILES)
    assert isinstance(projection(image_width=2, text_width=3), LinearProjection)


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"vlp_nothing\.Thing"):
        build({"_target_": "vlp_nothing.Thing"})
    with pytest.raises(ValueError, match="_partial_"):
        build({"_partial_": True, "width": 4})


def test_from_a_file_only_our_own_classes_are_built() -> None:
    module = "vlp.models.projection.linear"
    for target in ("torch.nn.Linear", f"{module}._linear", f"{module}.nn.Linear", f"{module}.nn", None):
        with pytest.raises(ValueError, match="are built from files"):
            build({"_target_": target}, allow=ALLOWED_IN_FILES)
