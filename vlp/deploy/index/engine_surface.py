"""What the index needs of an engine: the embedding half of the surface that `vlp.deploy.runtime` offers for an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8


@runtime_checkable
class EmbeddingEngine(Protocol):
    """fingerprint: sha256 of the artifact's manifest, in hex; an index belongs to one.  width: of an embedding.
    A picture is a path, the bytes of a file, or a Pillow image. Embeddings have unit length. All methods are thread-safe."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def width(self) -> int | None: ...

    def load_pixels(self, pictures: Sequence[Any]) -> UInt8[np.ndarray, "b 3 h w"]: ...

    def embed_pixels(self, pixels: UInt8[np.ndarray, "b 3 h w"]) -> Float[np.ndarray, "b e"]: ...

    def embed_images(self, pictures: Sequence[Any]) -> Float[np.ndarray, "b e"]: ...

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "b e"]: ...
