"""The colours of pictures: corrected, levelled, taken over from another picture."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.spec import Optional, Output, Range, node
from nodes import diffusion
from nodes.sockets import Image, Tensor

Percent = Annotated[float, Range(-100, 100, step=5)]
Level = Annotated[int, Range(0, 255, step=1)]


@node("ColorCorrect", title="Color Correct", category="image/postprocessing", outputs=[Output("IMAGE")])
def color_correct(
    *,
    image: Image,
    temperature: Percent = 0.0,
    hue: Annotated[float, Range(-90, 90, step=5)] = 0.0,
    brightness: Percent = 0.0,
    contrast: Percent = 0.0,
    saturation: Percent = 0.0,
    gamma: Annotated[float, Range(0.2, 2.2, step=0.1)] = 1.0,
) -> Tensor:
    """The picture brighter, with more contrast, warmer, more colourful (in percent), its hue turned (in degrees).

    A gamma above 1 darkens the middle tones, one below 1 lightens them.
    """
    shares = (1 + percent / 100 for percent in (brightness, contrast, saturation))
    light, spread, colour = shares
    how = diffusion.colours.Correction(light, spread, temperature / 100, gamma, colour, hue)
    return diffusion.colours.corrected(image, how)


@node("LayerColor: Levels", title="Levels", category="image/postprocessing", outputs=[Output("IMAGE", "image")])
def levels(
    *,
    image: Image,
    channel: Literal["RGB", "red", "green", "blue"],
    black_point: Level = 0,
    white_point: Level = 255,
    gray_point: Annotated[float, Range(0.01, 9.99, step=0.01)] = 1.0,
    output_black_point: Level = 0,
    output_white_point: Level = 255,
) -> Tensor:
    """What lies between the black and the white point stretched to the output's points, in all channels or in one.

    A grey point above 1 lightens the middle tones, one below 1 darkens them.
    """
    how = diffusion.colours.Levels(black_point, white_point, gray_point, output_black_point, output_white_point)
    return diffusion.colours.levelled(image, channel, how)


@node("ColorMatch", title="Color Match", category="image/postprocessing", outputs=[Output("IMAGE", "image")])
def color_match(
    *,
    image_ref: Image,
    image_target: Image,
    method: Literal["mkl", "hm", "reinhard", "mvgd", "hm-mvgd-hm", "hm-mkl-hm"] = "mkl",
    strength: Annotated[float, Range(0.0, 10.0, step=0.01), Optional()] = 1.0,
    multithread: Annotated[bool, Optional()] = True,
) -> Tensor:
    """The target with the colours of the reference, one for all or one for each.

    mkl moves mean and covariance with the least change, reinhard mean and deviation in a perceptual space, hm whole histograms; mvgd
    compares pixel by pixel, for two versions of one picture. Threads are the machine's to choose, whatever is said here.
    """
    return diffusion.colour_match.matched(image_target, image_ref, method, strength)
