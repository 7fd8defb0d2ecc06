"""A mark in pictures that is not seen, written and read."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.errors import InputError
from engine.spec import Output, Range, node
from nodes import diffusion
from nodes.sockets import Image, Tensor

Method = Literal["dwtDctSvd", "dwtDct"]
Length = Annotated[int, Range(1, 64, step=1)]

_CERTAIN = 0.4


@node("WatermarkWrite", title="Write Watermark", category="image/watermark", outputs=[Output("IMAGE")])
def watermark_write(image: Image, text: str = "mezzo", length: Length = 8, method: Method = "dwtDctSvd") -> Tensor:
    """The pictures with a text in them that is not seen, and survives a good JPEG but no scaling or cropping.

    The text has at most so many bytes; whoever reads it has to know their number and the method. dwtDct
    survives no JPEG. Both are those of the package invisible-watermark.
    """
    data = text.encode()
    if len(data) > length:
        raise InputError(
            f"expected a text of at most {length} bytes, found {len(data)}; shorten it or raise the length",
            input="text",
        )
    return diffusion.watermark.write(image, data.ljust(length, b"\0"), method)


@node(
    "WatermarkRead",
    title="Read Watermark",
    category="image/watermark",
    outputs=[Output("STRING", "text"), Output("FLOAT", "certainty"), Output("STRING", "hex")],
)
def watermark_read(image: Image, length: Length = 8, method: Method = "dwtDctSvd") -> tuple[str, float, str]:
    """The text of so many bytes in the first picture, how sure that is (1: all parts of the picture agree), and its bytes in hexadecimal.

    Where the parts do not agree, below 0.4, there is no watermark of this length, and the text is empty. Hexadecimal is for marks
    that are no text, such as those of other programs.
    """
    data, certainty = diffusion.watermark.read(image[:1], length, method)[0]
    text = data.rstrip(b"\0").decode("utf-8", "replace") if certainty >= _CERTAIN else ""
    return text, certainty, data.hex()
