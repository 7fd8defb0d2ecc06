"""Pictures blurred, sharpened, reduced to few colours, and taken apart."""

from __future__ import annotations

from typing import Annotated, Literal

from engine.spec import Output, Range, Seed, node
from nodes import diffusion
from nodes.sockets import Image, Tensor

Radius = Annotated[int, Range(1, 31, step=1)]
Threshold = Annotated[float, Range(0.01, 0.99, step=0.01)]

_IMAGE = [Output("IMAGE")]


@node("ImageBlur", category="image/postprocessing", outputs=_IMAGE, version=2)
def image_blur(
    image: Image, blur_radius: Radius = 1, sigma: Annotated[float, Range(0.1, 10.0, step=0.1)] = 1.0
) -> Tensor:
    """The picture smoothed. Sigma counts in radii."""
    return diffusion.filters.blurred(image, blur_radius, sigma)


@node("ImageSharpen", category="image/postprocessing", outputs=_IMAGE, version=2)
def image_sharpen(
    *,
    image: Image,
    sharpen_radius: Radius = 1,
    sigma: Annotated[float, Range(0.1, 10.0, step=0.01)] = 1.0,
    alpha: Annotated[float, Range(0.0, 5.0, step=0.01)] = 1.0,
) -> Tensor:
    """The picture with its edges made stronger."""
    return diffusion.filters.sharpened(image, sharpen_radius, sigma, alpha)


@node("ImageQuantize", category="image/postprocessing", outputs=_IMAGE)
def image_quantize(
    image: Image,
    colors: Annotated[int, Range(1, 256, step=1)] = 256,
    *,
    dither: Literal["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"],
) -> Tensor:
    """The picture in so many colours."""
    return diffusion.filters.quantized(image, colors, dither)


@node("Morphology", title="ImageMorphology", category="image/postprocessing", outputs=_IMAGE, version=2)
def morphology(
    *,
    image: Image,
    operation: Literal["erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat"],
    kernel_size: Annotated[int, Range(3, 999, step=1)] = 3,
) -> Tensor:
    """Dark or light parts grown, closed, opened, or what that changes."""
    return diffusion.filters.morphology(image, operation, kernel_size)


@node("Canny", category="image/preprocessors", outputs=_IMAGE, version=2)
def canny(image: Image, low_threshold: Threshold = 0.4, high_threshold: Threshold = 0.8) -> Tensor:
    """The edges of the picture, white on black: strong ones, and weak ones that hang on them."""
    return diffusion.filters.canny(image, low_threshold, high_threshold)


@node("ImageAddNoise", category="image", outputs=_IMAGE)
def image_add_noise(
    image: Image,
    seed: Annotated[int, Range(0, 2**64 - 1), Seed()] = 0,
    strength: Annotated[float, Range(0.0, 1.0, step=0.01)] = 0.5,
) -> Tensor:
    """The picture with noise on it."""
    return diffusion.filters.noisy(image, seed, strength)


@node(
    "ImageRGBToYUV", category="image/batch", outputs=[Output("IMAGE", "Y"), Output("IMAGE", "U"), Output("IMAGE", "V")]
)
def image_rgb_to_yuv(image: Image) -> tuple[Tensor, Tensor, Tensor]:
    """Brightness and the two colour differences, each as a grey picture."""
    return diffusion.filters.to_yuv(image)


@node("ImageYUVToRGB", category="image/batch", outputs=_IMAGE, version=2)
def image_yuv_to_rgb(Y: Image, U: Image, V: Image) -> Tensor:
    """The picture of a brightness and two colour differences."""
    return diffusion.filters.from_yuv(Y, U, V)
