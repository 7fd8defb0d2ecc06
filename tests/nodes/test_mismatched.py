"""Pictures and masks of unequal sizes, batches and channels meet: a picture comes of it, or an error in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import (
    compositing,
    image,
    image_batches,
    image_colours,
    image_compare,
    image_filters,
    image_transform,
    inpaint,
    mask_shapes,
    masks,
)

Size = tuple[int, int, int, int]
PAIRS: Final[list[tuple[Size, Size]]] = [
    ((2, 8, 8, 3), (3, 8, 8, 3)),
    ((1, 8, 8, 3), (3, 8, 8, 3)),
    ((2, 8, 8, 3), (1, 5, 9, 3)),
    ((1, 8, 8, 3), (1, 8, 8, 4)),
    ((1, 8, 8, 4), (2, 5, 5, 3)),
    ((1, 8, 8, 1), (1, 8, 8, 3)),
    ((1, 1, 1, 3), (1, 300, 7, 3)),
]


def plane(picture: Tensor) -> Tensor:
    return picture[..., 0]


NODES: Final[dict[str, Callable[[Tensor, Tensor], Any]]] = {
    "ImageBlend": lambda a, b: image.image_blend(image1=a, image2=b, blend_mode="multiply"),
    "ImageBatch": lambda a, b: image.image_batch(a, b),
    "ImageStitch": lambda a, b: image_transform.image_stitch(image1=a, image2=b, match_image_size=False),
    "ImageConcanate": lambda a, b: image_compare.image_concanate(a, b, "down", True),
    "ImageDifference": lambda a, b: image_compare.image_difference(image1=a, image2=b)[:2],
    "ImageEnhanceDifference+": lambda a, b: image_compare.image_enhance_difference(a, b, 0.75),
    "ColorMatch": lambda a, b: image_colours.color_match(image_ref=b, image_target=a, method="hm-mvgd-hm"),
    "ImageCompositeMasked": lambda a, b: compositing.image_composite_masked(
        destination=a, source=b, x=1, y=0, resize_source=False, mask=torch.rand(len(b) + 1, 4, 4)
    ),
    "JoinImageWithAlpha": lambda a, b: compositing.join_image_with_alpha(a, plane(b)),
    "PorterDuffImageComposite": lambda a, b: compositing.porter_duff_image_composite(
        source=a, source_alpha=plane(a), destination=b, destination_alpha=plane(b), mode="SRC_OVER"
    ),
    "MaskComposite": lambda a, b: masks.mask_composite(destination=plane(a), source=plane(b), operation="add"),
    "MaskBoundingBox+": lambda a, b: mask_shapes.mask_bounding_box(mask=plane(a), image_optional=b)[:2],
    "MaskBatch+": lambda a, b: mask_shapes.mask_batch(plane(a), plane(b)),
    "ImageYUVToRGB": lambda a, b: image_filters.image_yuv_to_rgb(a, b, a),
    "ImageQuantize": lambda a, b: image_filters.image_quantize(b, 4, dither="bayer-4"),
    "ImageScale": lambda a, b: image.image_scale(image=b, upscale_method="lanczos", width=5, height=7, crop="center"),
    "RebatchImages": lambda a, b: image_batches.rebatch_images([a, b], [2]),
}


@pytest.mark.parametrize("sizes", PAIRS, ids=str)
@pytest.mark.parametrize("name", NODES)
def test_a_picture_comes_of_it_or_an_error_in_words(name: str, sizes: tuple[Size, Size]) -> None:
    """Never torch's own, and never what is no number."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(size, generator=generator) for size in sizes)
    try:
        result = NODES[name](first, second)
    except InputError as error:
        told = str(error)
    else:
        told = ""
        for tensor in result if isinstance(result, tuple | list) else [result]:
            assert torch.isfinite(tensor).all()
            assert 0 not in tensor.shape
            assert tensor.min() >= -1e-6
    assert told == "" or "expected" in told


def test_which_of_them_are_errors() -> None:
    """Those that ComfyUI has no answer to either; all others make a picture."""
    refused: dict[str, list[int]] = {}
    for name, node in NODES.items():
        for number, sizes in enumerate(PAIRS):
            try:
                node(*(torch.rand(size) for size in sizes))
            except InputError:
                refused.setdefault(name, []).append(number)
    assert refused == {
        "ImageBlend": [0],
        "ColorMatch": [0, 1, 4],
        "PorterDuffImageComposite": [3, 4, 5],
        "ImageYUVToRGB": [0, 1, 2, 4, 6],
        "RebatchImages": [3, 4, 5, 6],
    }


def test_a_blend_of_one_with_many() -> None:
    """One picture goes with all of the other; two and three do not go together, which is said."""
    greys = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1, 1).expand(3, 2, 2, 3)
    blended = image.image_blend(image1=torch.ones(1, 2, 2, 3), image2=greys, blend_factor=0.5, blend_mode="normal")
    assert blended[:, 0, 0, 0].tolist() == pytest.approx([0.6, 0.7, 0.8])
    with pytest.raises(InputError, match="as many pictures as in image1, 2, or one for all, found 3") as caught:
        image.image_blend(image1=greys[:2], image2=greys, blend_mode="normal")
    assert caught.value.input == "image2"


@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5), (3, 6, 5), (2, 1, 6, 5)])
def test_masks_of_any_shape_are_taken(shape: tuple[int, ...]) -> None:
    """Without a batch, and with a channel."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    count = mask.reshape(-1, 6, 5).shape[0]
    changes: list[Callable[[Tensor], Tensor]] = [
        masks.mask_to_image,
        lambda mask: masks.grow_mask(mask, 1, True),
        lambda mask: mask_shapes.mask_blur(mask, 3),
        lambda mask: mask_shapes.mask_fix(mask=mask, fill_holes=2, smooth=3),
        lambda mask: mask_shapes.grow_mask_with_blur(mask=mask, expand=1, blur_radius=1.0)[0],
        mask_shapes.mask_fill_holes,
    ]
    for change in changes:
        result = change(mask)
        assert len(result) == count
        assert result.shape[1:3] == (6, 5)
    padded, around = inpaint.image_pad_for_outpaint(image=torch.rand(2, 6, 5, 3), left=1, feathering=2)
    assert padded.shape == (2, 6, 6, 3)
    assert around.shape[-2:] == (6, 6)
