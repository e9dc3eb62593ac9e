"""How a photo is resized in evaluation: from Pillow's image to an RGB image of the model's size, without torch.

`vlp.data.transforms.EvalTransform` and `vlp.data.padded_transforms.Letterbox` make tensors of the result; an artifact's
transform.json holds the settings. All results are Pillow's own, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import PIL.Image

from vlp.data.images import to_eight_bit, to_rgb, to_rgb_on_white
from vlp.data.placement import PLACES, RESAMPLING, Placement, check_colour, choose, fitted_size, resize_padded
from vlp.system.errors import UserError
from vlp.system.image_sizes import height_and_width

GREY = (124, 116, 104)  # ImageNet's mean; CLIP's is (123, 117, 104)
MAX_SIDE_RATIO = 16  # a longer image is not resized as a whole: 1 x 4000 would become 224 x 896,000
_BEFORE_RESIZING = {"last": to_eight_bit, "first": to_rgb, "on_white": to_rgb_on_white}


class EvalResizer:
    """mode "clip": shorter side to `resize`, then a centre crop; "squash": both sides to `resize`, then a centre crop where that
    is larger than the image.

    image_size, resize: pixels, one side or [height, width]; resize None = `image_size` ("clip": the smallest that covers it).
    interpolation: Pillow's, bicubic or another.
    crop_offset: an offset of half a pixel is rounded to the even one ("round": torchvision, and with it OpenAI, open_clip and
    timm) or to the smaller one ("floor": transformers).
    rgb: when an image is converted to RGB: "last", after it is resized (OpenAI, open_clip), "first", before it (ALBEF, BLIP), or
    "on_white", before it and with white behind transparency (transformers). Images with a palette or transparency differ.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        mode: str = "clip",
        resize: int | Sequence[int] | None = None,
        interpolation: str = "bicubic",
        crop_offset: str = "round",
        rgb: str = "last",
    ) -> None:
        for name, value, choices in (
            ("mode", mode, ("clip", "squash")),
            ("interpolation", interpolation, tuple(RESAMPLING)),
            ("crop_offset", crop_offset, ("round", "floor")),
            ("rgb", rgb, tuple(_BEFORE_RESIZING)),
        ):
            if value not in choices:
                raise UserError(f"unknown {name} {value!r} of EvalTransform: choose {' or '.join(choices)}")
        self.mode, self.interpolation, self.crop_offset, self.rgb = mode, interpolation, crop_offset, rgb
        self.size = height_and_width(image_size)
        self.resized = None if resize is None else height_and_width(resize)
        if self.resized is not None and any(a < b for a, b in zip(self.resized, self.size, strict=True)):
            raise UserError(f"resize={resize} of EvalTransform: give at least image_size={image_size}")
        if mode == "clip" and self.resized is not None and self.resized[0] != self.resized[1]:
            raise UserError(f"resize={resize} of EvalTransform with mode=clip: give one number, of the shorter side")

    def settings(self) -> dict[str, object]:
        """The arguments of the same resizer, as JSON has them."""
        resize = None if self.resized is None else list(self.resized)
        names = ("mode", "interpolation", "crop_offset", "rgb")
        return {"image_size": list(self.size), "resize": resize, **{name: getattr(self, name) for name in names}}

    def photo_size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width that a photo is resized to, before the crop."""
        if self.mode == "squash":
            return self.resized or self.size
        if self.resized is None and self.size[0] != self.size[1]:  # open_clip's rule: what just covers an oblong image
            scale = min(height / self.size[0], width / self.size[1])
            return round(height / scale), round(width / scale)
        shorter = (self.resized or self.size)[0]
        longer = int(shorter * max(width, height) / min(width, height))
        return (shorter, longer) if height <= width else (longer, shorter)

    def place(self, width: int, height: int) -> Placement:
        """The part of a photo that is seen."""
        rows, columns = self.photo_size(width, height)
        left, top, right, bottom = self._crop(rows, columns)
        x0, x1 = (x * width / columns for x in (left, right))
        y0, y1 = (y * height / rows for y in (top, bottom))
        return Placement(left=x0, top=y0, width=x1 - x0, height=y1 - y0, size=self.size)

    def _crop(self, height: int, width: int) -> tuple[int, int, int, int]:
        top, left = (
            side // 2 if self.crop_offset == "floor" else round(side / 2)
            for side in (height - self.size[0], width - self.size[1])
        )
        return left, top, left + self.size[1], top + self.size[0]

    def resize(
        self, image: PIL.Image.Image, *, full_size: tuple[int, int] | None = None, factor: int = 1
    ) -> PIL.Image.Image:
        """RGB of `size`.  full_size: width and height of the photo, where the image was decoded at 1/factor of them."""
        width, height = image.size if full_size is None else full_size
        image, resample = _BEFORE_RESIZING[self.rgb](image), RESAMPLING[self.interpolation]
        rows, columns = self.photo_size(width, height)
        if max(rows, columns) > MAX_SIDE_RATIO * max(self.size):  # the same pixels, without those that are cropped away
            seen = self.place(width, height).downscaled(factor)
            box = (seen.left, seen.top, seen.left + seen.width, seen.top + seen.height)
            image = image.resize(self.size[::-1], resample, box=box)
        else:
            part = None if factor == 1 else (0, 0, width / factor, height / factor)
            image = image.resize((columns, rows), resample, box=part).crop(self._crop(rows, columns))
        return to_rgb(image)


class LetterboxResizer:
    """The whole photo as large as fits into the image, its aspect ratio kept to within half a pixel.

    image_size: pixels of one side or [height, width].  where: "centre" or "top_left", as OWLv2 has it, in a square.
    fill: red, green and blue of the rest, 0 to 255; OWLv2's is black.  interpolation: Pillow's.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        where: str = "top_left",
        fill: Sequence[int] = GREY,
        interpolation: str = "bicubic",
    ) -> None:
        self.size = height_and_width(image_size)
        self.where, self.fill = choose("where", where, PLACES), check_colour(fill)
        self.interpolation = choose("interpolation", interpolation, RESAMPLING)

    def settings(self) -> dict[str, object]:
        """The arguments of the same resizer, as JSON has them."""
        own = {"where": self.where, "fill": list(self.fill), "interpolation": self.interpolation}
        return {"image_size": list(self.size), **own}

    def photo_size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width that a photo is resized to."""
        return fitted_size(width, height, self.size)

    def place(self, width: int, height: int) -> Placement:
        """The photo and what lies around it."""
        rows, columns = self.photo_size(width, height)
        top, left = (
            int(PLACES[self.where] * (side - used)) for side, used in zip(self.size, (rows, columns), strict=True)
        )
        return Placement.of_placed_photo(width, height, resized=(rows, columns), offset=(top, left), size=self.size)

    def resize(
        self, image: PIL.Image.Image, *, full_size: tuple[int, int] | None = None, factor: int = 1
    ) -> PIL.Image.Image:
        """As `EvalResizer.resize`."""
        width, height = image.size if full_size is None else full_size
        placement, resample = self.place(width, height).downscaled(factor), RESAMPLING[self.interpolation]
        size = (width / factor, height / factor) if factor > 1 else (width, height)
        return resize_padded(to_rgb(image), placement, fill=self.fill, resample=resample, photo_size=size)


Resizer = EvalResizer | LetterboxResizer
