"""What vlp needs of transformers beyond its public names; tests/system/compat/test_transformers.py states what each has to do."""

from __future__ import annotations

from typing import Any

from transformers.image_processing_backends import PilBackend, TorchvisionBackend

_STEPS = ("_preprocess", "resize", "center_crop", "rescale", "normalize", "rescale_and_normalize", "convert_to_rgb")


def own_image_steps(processor: Any) -> set[str]:
    """The steps of preprocessing that an image processor does in another way than transformers' common one; of a processor
    that is not derived from the common ones, all."""
    kind = type(processor)
    base = next((base for base in (TorchvisionBackend, PilBackend) if issubclass(kind, base)), None)
    return {name for name in _STEPS if base is None or getattr(kind, name, None) is not getattr(base, name, None)}
