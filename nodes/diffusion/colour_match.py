"""The colours of one picture given to another: Reinhard 2001, Pitié 2007, histograms. Pictures are float64 [n,3] in 0..1 here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import InputError
from nodes.diffusion import pictures

Colours = NDArray[np.float64]

# Reinhard et al., "Color transfer between images", 2001, eq. 4 and 6
_TO_LMS: Final = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_TO_LAB: Final = np.diag([1 / np.sqrt(3), 1 / np.sqrt(6), 1 / np.sqrt(2)]) @ np.array(
    [[1, 1, 1], [1, 1, -2], [1, -1, 0]]
)
_DARKEST: Final = 1 / 255
"""What black counts as, since its logarithm is not finite."""


def by_histograms(target: Colours, reference: Colours) -> Colours:
    """Each channel with the reference's distribution: the value of the same rank (Gonzalez and Woods, "Digital image processing")."""
    return np.stack([_ranked(target[:, c], reference[:, c]) for c in range(3)], axis=1)


def _ranked(target: NDArray[Any], reference: NDArray[Any]) -> NDArray[Any]:
    _, place, counts = np.unique(target, return_inverse=True, return_counts=True)
    values, others = np.unique(reference, return_counts=True)
    ranks = np.cumsum(counts) / target.size
    return np.asarray(np.interp(ranks, np.cumsum(others) / reference.size, values)[place])


def by_means(target: Colours, reference: Colours) -> Colours:
    """Mean and deviation of every channel of lαβ made the reference's (Reinhard et al. 2001, eq. 10 and 11)."""
    one, other = _lab(target), _lab(reference)
    spread = one.std(0)
    factor = np.divide(other.std(0), spread, out=np.ones(3), where=spread > 1e-9)
    moved: Colours = (one - one.mean(0)) * factor + other.mean(0)
    return _rgb(moved)


def _lab(colours: Colours) -> Colours:
    logarithms: Colours = np.log10(np.maximum(colours, _DARKEST) @ _TO_LMS.T) @ _TO_LAB.T
    return logarithms


def _rgb(lab: Colours) -> Colours:
    colours: Colours = 10 ** (lab @ np.linalg.inv(_TO_LAB).T) @ np.linalg.inv(_TO_LMS).T
    return colours


def _root(matrix: NDArray[Any], power: float) -> NDArray[Any]:
    """A power of a symmetric matrix without negative eigenvalues; directions without extent stay without."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-9
    return np.asarray((vectors * np.where(kept, np.where(kept, values, 1.0) ** power, 0.0)) @ vectors.T)


def by_transport(target: Colours, reference: Colours) -> Colours:
    """Mean and covariance made the reference's by the linear map that moves colours least (Pitié and Kokaram, "The linear
    Monge-Kantorovitch linear colour mapping for example-based colour transfer", 2007, eq. 21)."""
    own, wanted = np.cov(target.T, bias=True), np.cov(reference.T, bias=True)
    forth, back = _root(own, 0.5), _root(own, -0.5)
    mapping = back @ _root(forth @ wanted @ forth, 0.5) @ back
    moved: Colours = (target - target.mean(0)) @ mapping + reference.mean(0)
    return moved


def by_regression(target: Colours, reference: Colours) -> Colours:
    """The linear map that fits the reference best pixel by pixel (the analytical solution of Hahne and Aggoun, "PlenoptiCam v1.0: A
    light-field imaging framework", 2021, written out: inverse covariance times cross covariance). Both are of one size."""
    own, other = target - target.mean(0), reference - reference.mean(0)
    mapping = _root(own.T @ own / len(own), -1.0) @ (own.T @ other / len(own))
    moved: Colours = own @ mapping + reference.mean(0)
    return moved


def _between_histograms(middle: Callable[[Colours, Colours], Colours]) -> Callable[[Colours, Colours], Colours]:
    def match(target: Colours, reference: Colours) -> Colours:
        return by_histograms(middle(by_histograms(target, reference), reference), reference)

    return match


METHODS: Final[dict[str, Callable[[Colours, Colours], Colours]]] = {
    "mkl": by_transport,
    "hm": by_histograms,
    "reinhard": by_means,
    "mvgd": by_regression,
    "hm-mvgd-hm": _between_histograms(by_regression),
    "hm-mkl-hm": _between_histograms(by_transport),
}


def matched(target: Tensor, reference: Tensor, method: str, strength: float = 1.0) -> Tensor:
    """Pictures [B,H,W,C] with the colours of ``reference``, [1,h,w,C] or as many; ``strength`` goes from 0 (as they are) over 1 beyond.

    Alpha stays. mvgd compares pixel by pixel, so that the reference is scaled to the target's size for it. Raises InputError for another
    number of references.
    """
    if len(reference) not in (1, len(target)):
        raise InputError(
            f"expected one picture or {len(target)}, as many as in image_target, found {len(reference)}",
            input="image_ref",
        )
    if "mvgd" in method:
        reference = pictures.scale(reference, target.shape[2], target.shape[1], "bilinear")
    count = len(target)
    return torch.stack(
        [_matched(target[index], reference[index % len(reference)], method, strength) for index in range(count)]
    )


def _matched(target: Tensor, reference: Tensor, method: str, strength: float) -> Tensor:
    given = _rows(target)
    result = given + strength * (METHODS[method](given, _rows(reference)) - given)
    colours = torch.from_numpy(result.clip(0, 1).astype(np.float32)).reshape(*target.shape[:2], 3)
    return torch.cat([colours, target[..., 3:]], dim=-1)


def _rows(image: Tensor) -> Colours:
    colours = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].expand(*image.shape[:2], 3)
    return colours.reshape(-1, 3).double().cpu().numpy()
