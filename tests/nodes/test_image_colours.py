"""Colours corrected, levelled and taken over, on pictures whose colours are known."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.errors import InputError
from nodes import image_colours as colour_nodes
from nodes.diffusion import colour_match


def pixels(*colours: tuple[float, ...]) -> Tensor:
    """A picture of one row."""
    return torch.tensor([[list(colours)]])


def noise(seed: int, height: int = 24, width: int = 32, count: int = 1) -> Tensor:
    """Colours that hang together, off grey."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.tensor([[0.5, 0.2, 0.1], [0.1, 0.4, 0.3], [0.0, 0.2, 0.3]])
    return 0.15 + torch.rand(count, height, width, 3, generator=generator) @ mixing


def correct(image: Tensor, **changes: Any) -> Tensor:
    result: Tensor = colour_nodes.color_correct(image=image, **changes)
    return result


def test_by_default_nothing_changes() -> None:
    image = torch.cat([noise(0), torch.rand(1, 24, 32, 1)], dim=-1)
    assert torch.allclose(correct(image), image, atol=1e-6)
    assert torch.allclose(colour_nodes.levels(image=image, channel="RGB"), image, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"brightness": 50.0}, (0.6, 0.3, 1.0)),
        ({"brightness": -100.0}, (0.0, 0.0, 0.0)),
        ({"temperature": 50.0}, (0.6, 0.24, 0.8)),
        ({"temperature": -25.0}, (0.4, 0.2, 1.0)),
        ({"gamma": 2.0}, (0.16, 0.04, 0.64)),
        ({"saturation": -100.0}, (0.5, 0.5, 0.5)),
        ({"saturation": 50.0}, (0.35, 0.05, 0.95)),
    ],
)
def test_each_correction(changes: dict[str, float], expected: tuple[float, ...]) -> None:
    """Worked out for one colour: factors, powers, and saturation around its lightness of a half."""
    found = correct(pixels((0.4, 0.2, 0.8)), **changes)[0, 0, 0].tolist()
    assert found == pytest.approx(expected, abs=1e-5)


def test_contrast_turns_around_the_picture_s_own_mean() -> None:
    """Each picture of a batch has its own."""
    greys = torch.tensor([[0.2, 0.4], [0.6, 0.8]])[:, None, :, None].expand(2, 1, 2, 3)
    result = correct(greys, contrast=50.0)[..., 0]
    assert result.flatten().tolist() == pytest.approx([0.15, 0.45, 0.55, 0.85], abs=1e-5)
    assert correct(greys, contrast=-100.0)[0, ..., 0].flatten().tolist() == pytest.approx([0.3, 0.3], abs=1e-5)


@pytest.mark.parametrize("degrees", [-90.0, -45.0, 30.0, 90.0])
def test_hue_turns_as_in_hsv(degrees: float) -> None:
    """Every colour, greys and primaries among them, as the standard library has it."""
    colours = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.2, 0.2, 0.9), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (0.9, 0.8, 0.1)]
    found = correct(pixels(*colours), hue=degrees)[0, 0]
    for colour, result in zip(colours, found, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        assert result.tolist() == pytest.approx(
            colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value), abs=1e-5
        )


def test_saturation_is_that_of_hls() -> None:
    """And is at most 1."""
    colours = [(0.9, 0.6, 0.6), (0.1, 0.2, 0.15), (0.3, 0.3, 0.3), (1.0, 1.0, 1.0)]
    for percent in (-60.0, 40.0, 100.0):
        found = correct(pixels(*colours), saturation=percent)[0, 0]
        for colour, result in zip(colours, found, strict=True):
            hue, light, saturation = colorsys.rgb_to_hls(*colour)
            wanted = colorsys.hls_to_rgb(hue, light, min(1.0, saturation * (1 + percent / 100)))
            assert result.tolist() == pytest.approx(wanted, abs=1e-5)


def test_levels_stretch_bend_and_squeeze() -> None:
    """In one channel or all; a grey point above 1 lightens."""
    image = pixels((51 / 255, 102 / 255, 204 / 255, 0.3))
    assert colour_nodes.levels(image=image, channel="RGB", black_point=51, white_point=204)[0, 0, 0].tolist() == (
        pytest.approx([0.0, 1 / 3, 1.0, 0.3], abs=1e-5)
    )
    assert colour_nodes.levels(image=image, channel="green", gray_point=2.0)[0, 0, 0].tolist() == pytest.approx(
        [0.2, 0.4**0.5, 0.8, 0.3], abs=1e-5
    )
    squeezed = colour_nodes.levels(image=image, channel="blue", output_black_point=51, output_white_point=102)
    assert squeezed[0, 0, 0, 2].item() == pytest.approx(0.2 + 0.8 * 0.2, abs=1e-5)
    with pytest.raises(InputError, match="expected a white_point above the black_point 9, found 9"):
        colour_nodes.levels(image=image, channel="RGB", black_point=9, white_point=9)


def match(method: str, target: Tensor, reference: Tensor, strength: float = 1.0) -> Tensor:
    result: Tensor = colour_nodes.color_match(
        image_ref=reference, image_target=target, method=method, strength=strength
    )
    return result


def moments(image: Tensor) -> tuple[Any, Any]:
    rows = image[..., :3].reshape(-1, 3).double().numpy()
    return rows.mean(0), np.cov(rows.T, bias=True)


def test_transport_gives_mean_and_covariance() -> None:
    """To single precision, and between pictures of any two sizes."""
    reference = noise(2, 10, 11) * 0.7 + 0.1
    result = match("mkl", noise(1), reference)
    for found, wanted in zip(moments(result), moments(reference), strict=True):
        assert np.allclose(found, wanted, atol=1e-4)


def test_transport_moves_colours_least() -> None:
    """Its matrix is symmetric and has no negative direction, which is what makes it the least (Pitié and Kokaram 2007)."""
    target, reference = (noise(seed).reshape(-1, 3).double().numpy() for seed in (1, 2))
    moved = colour_match.by_transport(target, reference)
    mapping, *_ = np.linalg.lstsq(target - target.mean(0), moved - moved.mean(0), rcond=None)
    assert np.allclose(mapping, mapping.T, atol=1e-6)
    assert np.linalg.eigvalsh(mapping).min() > 0


def test_histograms_are_taken_over_whole() -> None:
    """Same sizes: the sorted values of each channel are the reference's."""
    target, reference = noise(1), noise(2)
    result = match("hm", target, reference)
    for channel in range(3):
        assert torch.allclose(
            result[..., channel].flatten().sort().values, reference[..., channel].flatten().sort().values, atol=1e-6
        )
        ranks = (image[..., channel].flatten().argsort() for image in (result, target))
        assert torch.equal(next(ranks), next(ranks))


def test_reinhard_gives_mean_and_deviation_in_lab() -> None:
    """In the paper's own space."""
    target, reference = noise(1) * 0.5 + 0.2, noise(2) * 0.4 + 0.3
    result = match("reinhard", target, reference)
    labs = [colour_match._lab(image.reshape(-1, 3).double().numpy()) for image in (result, reference)]
    assert np.allclose(labs[0].mean(0), labs[1].mean(0), atol=1e-3)
    assert np.allclose(labs[0].std(0), labs[1].std(0), atol=1e-3)


def test_mvgd_undoes_a_linear_change_of_the_same_picture() -> None:
    """Exactly, since it compares pixel by pixel; the reference may be of another size."""
    original = noise(3)
    faded = original @ torch.tensor([[0.6, 0.1, 0.0], [0.0, 0.5, 0.2], [0.1, 0.0, 0.7]]) + 0.05
    assert torch.allclose(match("mvgd", faded, original), original, atol=1e-4)
    assert match("mvgd", faded, noise(4, 7, 5)).shape == faded.shape


@pytest.mark.parametrize("method", list(colour_match.METHODS))
def test_every_method_keeps_what_matches_already(method: str) -> None:
    """And a strength of 0 keeps everything; alpha stays; flat and tiny pictures are no trouble."""
    image = torch.cat([noise(5), torch.rand(1, 24, 32, 1)], dim=-1)
    assert torch.allclose(match(method, image, image), image, atol=2e-4)
    assert torch.equal(match(method, image, noise(6))[..., 3], image[..., 3])
    assert torch.allclose(match(method, image, noise(6), strength=0.0), image, atol=1e-6)
    black, white = torch.zeros(1, 1, 1, 3), torch.ones(1, 3, 3, 3)
    assert torch.allclose(match(method, black, white), torch.ones(1, 1, 1, 3), atol=1e-5)
    assert torch.isfinite(match(method, white, noise(6))).all()


def test_strength_is_a_share_of_the_way() -> None:
    target, reference = noise(1), noise(2)
    whole = match("mkl", target, reference)
    half = match("mkl", target, reference, 0.5)
    assert torch.allclose(half, (target + whole) / 2, atol=1e-5)


def test_references_are_one_or_as_many() -> None:
    """Each target its own, or all the same."""
    targets, references = noise(1, count=2), noise(2, count=2)
    each = match("mkl", targets, references)
    assert torch.allclose(each[1], match("mkl", targets[1:], references[1:])[0])
    assert torch.allclose(match("mkl", targets, references[:1])[1], match("mkl", targets[1:], references[:1])[0])
    with pytest.raises(InputError, match="expected one picture or 2, as many as in image_target, found 3") as caught:
        match("mkl", targets, noise(3, count=3))
    assert caught.value.input == "image_ref"
