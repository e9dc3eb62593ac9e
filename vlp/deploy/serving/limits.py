"""What one request, and all of them together, may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vlp.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ServingLimits:
    """Whatever is over a limit is refused before the work begins.  Raises UserError for limits that contradict each other.

    body_bytes: of one request.  bodies_bytes: of all requests that are read or worked on.  pixels: of one photo, by its header.
    items: texts and photos of one request.  characters: of one text.  queue: items that may wait, for texts and photos each.
    batch: items that the model computes together.  seconds: of one request, then 504.  body_seconds: from the first byte to the
    last, then 408.  head_bytes, head_seconds: of the request line and headers.  connections: at a time.
    decode_threads: photos decoded at a time; a photo of 64 megapixels takes up to 600 MB while it is.
    """

    body_bytes: int = 20 << 20
    bodies_bytes: int = 256 << 20
    pixels: int = 64_000_000
    items: int = 256
    characters: int = 20_000
    queue: int = 256
    batch: int = 32
    seconds: float = 30.0
    body_seconds: float = 20.0
    head_bytes: int = 32 << 10
    head_seconds: float = 10.0
    connections: int = 1_000
    decode_threads: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise UserError(f"limit {field.name}: expects a number above 0, got {getattr(self, field.name)}")
        if self.items > self.queue:
            raise UserError(
                f"limit items={self.items} is above queue={self.queue}: the largest request would always be refused; "
                "raise queue or lower items"
            )
        if self.body_bytes > self.bodies_bytes:
            raise UserError(f"limit body_bytes={self.body_bytes} is above bodies_bytes={self.bodies_bytes}")
