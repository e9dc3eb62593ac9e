"""From a scene to pixels and one exact mask for each thing.

Outlines are drawn four times too large and averaged, so edges are smooth; a pixel belongs to the mask when at least
half of it is covered. Things of the default scenes never overlap; in crowded ones a mask is what is visible.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vlp.scenes.scene import Scene, Thing

OVERSAMPLING = 4
SHADING = 10.0  # how many levels the background may gain or lose towards a border
Points = list[tuple[float, float]]


def polar_points(radii: list[float], start: float = -90.0) -> Points:
    """Points at these radii, at equal angles, clockwise on the screen from `start` degrees (-90 is up)."""
    turns = [math.radians(start + 360 * i / len(radii)) for i in range(len(radii))]
    return [(r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, turns, strict=True)]


def crescent_outline() -> Points:
    """A disc without a second one, moved to the right: the left arc of the first, then that of the second back."""
    outer = [math.radians(a) for a in range(40, 321, 10)]
    inner = [math.radians(a) for a in range(300, 59, -10)]
    tip_x, tip_y = math.cos(outer[0]), math.sin(outer[0])
    radius = tip_y / math.sin(inner[-1])
    centre = tip_x - radius * math.cos(inner[-1])
    arc = [(math.cos(a), math.sin(a)) for a in outer]
    return [(x + 0.15, y) for x, y in arc] + [
        (centre + radius * math.cos(a) + 0.15, radius * math.sin(a)) for a in inner
    ]


def heart_outline() -> Points:
    turns = [2 * math.pi * i / 40 for i in range(40)]
    return [
        (
            0.056 * 16 * math.sin(t) ** 3,
            -0.056 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) - 0.12,
        )
        for t in turns
    ]


@cache
def outline(shape: str) -> tuple[Points, Points]:
    """Border and hole (maybe empty) inside the unit circle, y downwards."""
    arm, head = 0.3, 0.1
    cross = [(arm, -0.94), (arm, -arm), (0.94, -arm), (0.94, arm), (arm, arm), (arm, 0.94)]
    arrow = [(head, -0.75), (0.95, 0.0), (head, 0.75), (head, 0.28), (-0.95, 0.28), (-0.95, -0.28), (head, -0.28)]
    borders = {
        "circle": polar_points([0.95] * 48),
        "square": polar_points([1.0] * 4, start=-45.0),
        "triangle": polar_points([1.0] * 3),
        "star": polar_points([1.0, 0.42] * 5),
        "cross": cross + [(-x, -y) for x, y in cross],
        "ring": polar_points([1.0] * 48),
        "heart": heart_outline(),
        "crescent": crescent_outline(),
        "arrow": arrow,
    }
    return borders[shape], polar_points([0.55] * 36) if shape == "ring" else []


def coverage(thing: Thing, size: int) -> tuple[np.ndarray, int, int]:
    """How much of each pixel of a window the thing covers (0 to 255), and the window's left and top."""
    left, top = (math.floor((centre - thing.radius) * size) for centre in (thing.x, thing.y))
    side = math.ceil(2 * thing.radius * size) + 2
    cosine, sine = math.cos(math.radians(thing.angle)), math.sin(math.radians(thing.angle))
    scale = thing.radius * size
    centre_x, centre_y = thing.x * size - left, thing.y * size - top
    large = Image.new("L", (side * OVERSAMPLING, side * OVERSAMPLING))
    pen = ImageDraw.Draw(large)
    for points, fill in zip(outline(thing.shape), (255, 0), strict=True):
        turned = [
            (centre_x + scale * (x * cosine - y * sine), centre_y + scale * (x * sine + y * cosine)) for x, y in points
        ]
        if turned:
            # Pillow's polygon takes whole numbers to be pixel centres, hence the half
            pen.polygon([(u * OVERSAMPLING - 0.5, v * OVERSAMPLING - 0.5) for u, v in turned], fill=fill)
    return np.asarray(large.reduce(OVERSAMPLING)), left, top


@cache
def texture_mask(name: str, side: int, step: int) -> np.ndarray:
    """Where the ink of a texture goes, [side, side], made of cells of `step` pixels."""
    rows, columns = (cells // step for cells in np.indices((side, side)))
    if name == "striped":
        return (rows + columns * 0) % 2 == 1
    if name == "dotted":
        return (rows % 2 == 1) & (columns % 2 == 1)
    if name == "checked":
        return (rows + columns) % 2 == 1
    return np.zeros((side, side), dtype=bool)


def draw_ground(scene: Scene, size: int) -> np.ndarray:
    """The background and the frame, float32 [size, size, 3]."""
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    shade = SHADING / 2 * (scene.slope[0] * ramp[None, :] + scene.slope[1] * ramp[:, None])
    canvas = np.asarray(scene.rgb, dtype=np.float32) + shade[:, :, None]
    for turn, (width, colour) in enumerate(scene.frame):
        np.rot90(canvas, turn)[: frame_pixels(width, size)] = colour
    return canvas


def frame_pixels(width: float, size: int) -> int:
    return max(1, round(width * size))


def frame_mask(scene: Scene, size: int) -> np.ndarray:
    """Where the frame is, things on it included, bool [size, size]."""
    mask = np.zeros((size, size), dtype=bool)
    for turn, (width, _) in enumerate(scene.frame):
        np.rot90(mask, turn)[: frame_pixels(width, size)] = True
    return mask


def paint_thing(canvas: np.ndarray, thing: Thing, scene: Scene) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Paints it over what is there.  Its coverage in a window (0 to 255), and the window's rows and columns."""
    # Ink shades towards white on dark grounds and black on light ones: a texture keeps the hue and makes no holes
    ink = np.float32(255.0 if scene.background == "black" else 0.0)
    size = len(canvas)
    step = max(1, round(size / 32))
    window, left, top = coverage(thing, size)
    window = window[: size - top, : size - left]
    rows, columns = slice(top, top + window.shape[0]), slice(left, left + window.shape[1])
    paint = np.broadcast_to(np.asarray(thing.rgb, dtype=np.float32), (*window.shape, 3))
    inked = texture_mask(thing.texture, max(window.shape), step)[: window.shape[0], : window.shape[1]]
    paint = np.where(inked[:, :, None], (paint + ink) / 2, paint)
    opacity = window[:, :, None] / np.float32(255)
    canvas[rows, columns] += opacity * (paint - canvas[rows, columns])
    return window, (rows, columns)


def draw_scene(scene: Scene, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """RGB pixels uint8 [size, size, 3] and, for each thing, its mask bool [size, size]. No two things overlap."""
    canvas = draw_ground(scene, size)
    masks = []
    for thing in scene.things:
        window, cells = paint_thing(canvas, thing, scene)
        mask = np.zeros((size, size), dtype=bool)
        mask[cells] = window >= 128
        masks.append(mask)
    return to_pixels(canvas), masks


def draw_layers(scene: Scene, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """As `draw_scene`, where later things hide earlier ones: a mask is what is visible.

    A pixel is a mixture of things and ground; it belongs to what has the largest share of it, to the upper one of equals.
    """
    canvas = draw_ground(scene, size)
    shares = np.zeros((len(scene.things) + 1, size, size), dtype=np.float32)
    shares[0] = 1.0
    for position, thing in enumerate(scene.things, start=1):
        window, cells = paint_thing(canvas, thing, scene)
        opacity = window / np.float32(255)
        shares[:position, cells[0], cells[1]] *= 1 - opacity
        shares[position, cells[0], cells[1]] = opacity
    owner = len(scene.things) - shares[::-1].argmax(0)
    return to_pixels(canvas), [owner == position for position in range(1, len(scene.things) + 1)]


def to_pixels(canvas: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def bounding_box(mask: np.ndarray) -> list[int]:
    """[left, top, width, height] of the pixels of a mask, as COCO counts them."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def encode_mask_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run-length code: lengths of runs down the columns, starting with one of zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"counts": np.diff(edges, prepend=0, append=mask.size).tolist(), "size": list(mask.shape)}
