"""A contact sheet: pictures in a grid, each with its caption under it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

PAPER, INK, WRONG = (238, 238, 238), (0, 0, 0), (200, 0, 0)
GAP, LINES, LINE = 8, 3, 12


def contact_sheet(
    pictures: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    path: Path,
    *,
    columns: int = 10,
    wrong: Sequence[int] = (),
) -> None:
    """Save the sheet; captions of the pictures numbered in `wrong` are red."""
    side = len(pictures[0])
    wide, high = side + GAP, side + GAP + LINES * LINE
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * wide + GAP, rows * high + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = GAP + number % columns * wide, GAP + number // columns * high
        sheet.paste(Image.fromarray(picture), (x, y))
        lines = textwrap.wrap(caption, width=side // 6)[:LINES]
        pen.multiline_text((x, y + side), "\n".join(lines), fill=WRONG if number in wrong else INK, spacing=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
