"""The arithmetic of low-rank and other small changes to a weight.

Every function takes the running weight W, float32 of any shape [out, in, ...], and the tensors of one module by role (what a
file's key ends with). A convolution's kernel is treated as a matrix [out, in * kh * kw] where a form is one of matrices.

Forms: LoRA (Hu et al. 2021), with a middle factor for convolutions, LoHa and LoKr (Yeh et al. 2023, "Navigating Text-To-Image
Customization": LyCORIS; Hyeon-Woo et al. 2021, "FedPara"), GLoRA (Chavan et al. 2023, "One-for-All"), OFT (Qiu et al. 2023), BOFT (Liu
et al. 2023, "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization"), DoRA (Liu et al. 2024), and whole differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

Factors = Mapping[str, Tensor]
"""One module's tensors by role, float32: ``up``, ``down``, ``alpha``, ``hada_w1_a``, ..."""


class Misfit(ValueError):
    """A change has another shape than the weight it is for."""


@dataclass(frozen=True, slots=True)
class Form:
    """A way to say a change: the roles that must be there, those that may, and what they make of a weight."""

    needs: frozenset[str]
    may: frozenset[str]
    apply: Callable[[Tensor, Factors, float], Tensor]
    """(W, factors, strength) -> the changed weight, a new tensor."""
    is_sum: bool = False
    """Whether what is added does not follow from W, unless there are lengths of directions among the factors."""


def lora(weight: Tensor, parts: Factors) -> Tensor:
    """``alpha / rank * up @ down``; ``rank`` is the rows of ``down``. With ``mid`` [r, r, kh, kw] the three are convolutions in a row."""
    up, down = parts["up"].flatten(1), parts["down"]
    middle = parts.get("mid")
    matrix = down.flatten(1)
    delta = up @ matrix if middle is None else torch.einsum("o a, a b h w, b i -> o i h w", up, middle, matrix)
    return _scaled(_shaped(delta, weight), parts, down.shape[0])


def loha(weight: Tensor, parts: Factors) -> Tensor:
    """``alpha / rank * (w1_a @ w1_b) o (w2_a @ w2_b)``, elementwise; with ``t1`` and ``t2`` [r, r, kh, kw] each product is a Tucker one."""
    first = _product(parts["hada_w1_a"], parts["hada_w1_b"], parts.get("hada_t1"))
    second = _product(parts["hada_w2_a"], parts["hada_w2_b"], parts.get("hada_t2"))
    return _scaled(_shaped(first * second, weight), parts, parts["hada_w1_b"].shape[0])


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """``a @ b``; about a core, a [r, out] and b [r, in] give [out, in, kh, kw]."""
    return a @ b if core is None else torch.einsum("i j h w, j q, i p -> p q h w", core, b, a)


def lokr(weight: Tensor, parts: Factors) -> Tensor:
    """``alpha / rank * kron(w1, w2)``, each whole or a product; the scale is 1 where both are whole."""
    w1 = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    w2 = parts.get("lokr_w2")
    if w2 is None:
        w2 = _product(parts["lokr_w2_a"], parts["lokr_w2_b"], parts.get("lokr_t2"))
    rank = next((parts[role].shape[0] for role in ("lokr_w2_b", "lokr_w1_b") if role in parts), None)
    if w2.ndim > 2:
        w1 = w1.reshape(*w1.shape, *[1] * (w2.ndim - 2))
    delta = _shaped(torch.kron(w1, w2.contiguous()), weight)
    return delta if rank is None else _scaled(delta, parts, rank)


def glora(weight: Tensor, parts: Factors) -> Tensor:
    """``alpha / rank * (W A + B)`` with ``A = a1 @ a2`` and ``B = b1 @ b2``; older files hold the factors of each the other way round."""
    a1, a2, b1, b2 = (parts[role].flatten(1) for role in ("a1", "a2", "b1", "b2"))
    rank = a2.shape[0]
    if not b2.shape[0] == b1.shape[1] == a1.shape[1] == rank:
        a1, a2, b1, b2, rank = a2, a1, b2, b1, a1.shape[0]
    rows = weight if a1.shape[0] == weight.shape[1] else weight.flatten(1)
    inner = torch.einsum("o i ..., i r, r j -> o j ...", rows, a1, a2)
    return _scaled(_shaped(inner, weight) + _shaped(b1 @ b2, weight), parts, rank)


def _scaled(delta: Tensor, parts: Factors, rank: int) -> Tensor:
    return delta * (parts["alpha"] / rank) if "alpha" in parts else delta


def _shaped(delta: Tensor, weight: Tensor) -> Tensor:
    """``delta`` in the shape of ``weight``: kernels may be flat, and 1x1 ones left out."""
    if delta.shape[0] != weight.shape[0] or delta.numel() != weight.numel():
        raise Misfit(f"expected a change of shape {list(weight.shape)}, found {list(delta.shape)}")
    return delta.reshape(weight.shape)


def _added(change: Callable[[Tensor, Factors], Tensor]) -> Callable[[Tensor, Factors, float], Tensor]:
    def apply(weight: Tensor, parts: Factors, strength: float) -> Tensor:
        delta = change(weight, parts)
        if "dora_scale" in parts:
            return weight + strength * (_decomposed(weight, delta, parts["dora_scale"]) - weight)
        return weight + strength * delta

    return apply


def _decomposed(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA, eq. 5: the directions of ``weight + delta`` with the lengths ``magnitude``, for each output where it has as many, else for
    each input.

    The length of an output is measured on ``weight`` itself and not, as in the paper, with the change: that is what ComfyUI does, and
    what pictures were made with.
    """
    changed = weight + delta
    by_output = magnitude.shape[0] == weight.shape[0]
    kept = 0 if by_output else 1
    measured = weight if by_output else changed
    norm = measured.transpose(0, kept).flatten(1).norm(dim=1)
    if magnitude.numel() != norm.numel():
        raise Misfit(f"expected {norm.numel()} lengths, found {magnitude.numel()}")
    scale: Tensor = magnitude.flatten() / (norm + torch.finfo(weight.dtype).eps)
    shape = [1] * weight.ndim
    shape[kept] = -1
    return changed * scale.reshape(shape)


def oft(weight: Tensor, parts: Factors, strength: float) -> Tensor:
    """Rows turned by orthogonal blocks: ``oft_blocks`` [k, n, n] turn n of the k * n outputs each; [m, k, n, n] are the m factors of a
    butterfly (BOFT), behind which ``rescale`` multiplies every output.

    A block A gives ``R = (I + Q)(I - Q)^-1`` with ``Q = A - A^T`` (Cayley), Q no longer than ``alpha`` where that is above 0. Between 0
    and 1 the strength counts twice: blocks are mixed with the identity by it, and the change that they make is multiplied by it.
    """
    blocks = parts["oft_blocks"]
    turns = _rotations(blocks, parts.get("alpha"))
    turns = strength * turns + (1 - strength) * torch.eye(blocks.shape[-1], device=blocks.device)
    if blocks.ndim == 3:
        turned = _turn(weight, turns.transpose(1, 2))
    else:
        turned = _butterfly(weight, turns)
        if "rescale" in parts:
            turned = turned * parts["rescale"].reshape(-1, *[1] * (weight.ndim - 1))
    return weight + strength * (turned - weight)


def _rotations(blocks: Tensor, limit: Tensor | None) -> Tensor:
    q = blocks - blocks.transpose(-1, -2)
    if limit is not None:
        shrink = (limit / (q.norm() + 1e-8)).clamp(max=1.0)
        q = q * torch.where(limit > 0, shrink, torch.ones_like(shrink))
    identity = torch.eye(q.shape[-1], device=q.device)
    turn: Tensor = (identity + q) @ torch.linalg.inv(identity - q)
    return turn


def _turn(weight: Tensor, turns: Tensor) -> Tensor:
    """Each block of rows times its matrix of ``turns`` [k, n, n]."""
    count, size = turns.shape[:2]
    if count * size != weight.shape[0]:
        raise Misfit(f"expected blocks for {weight.shape[0]} outputs, found {count} of {size}")
    return (turns @ weight.reshape(count, size, -1)).reshape(weight.shape)


def _butterfly(weight: Tensor, turns: Tensor) -> Tensor:
    """The factors of ``turns`` [m, k, n, n] one after the other; the i-th joins rows that lie ``2**i * n / 2`` apart."""
    half = turns.shape[-1] // 2
    for level, factor in enumerate(turns):
        apart = 2**level * half
        if weight.shape[0] % (2 * apart):
            raise Misfit(f"expected outputs in multiples of {2 * apart}, found {weight.shape[0]}")
        pairs = weight.unflatten(0, (-1, 2, apart)).transpose(1, 2).flatten(0, 2)
        weight = _turn(pairs, factor).unflatten(0, (-1, apart, 2)).transpose(1, 2).flatten(0, 2)
    return weight


def _difference(role: str) -> Callable[[Tensor, Factors, float], Tensor]:
    return lambda weight, parts, strength: weight + strength * _shaped(parts[role], weight)


def _set(weight: Tensor, parts: Factors, strength: float) -> Tensor:
    """The new weight in the place of the old one, whatever the strength."""
    return _shaped(parts["set_weight"], weight)


def _reshaped(weight: Tensor, parts: Factors, strength: float) -> Tensor:
    """``weight`` with zeros behind it up to the shape that ``reshape_weight`` lists."""
    wanted = [int(size) for size in parts["reshape_weight"]]
    if len(wanted) != weight.ndim or any(new < old for new, old in zip(wanted, weight.shape, strict=True)):
        raise Misfit(f"expected a shape that {list(weight.shape)} fits in, found {wanted}")
    padding = [side for new, old in zip(wanted[::-1], weight.shape[::-1], strict=True) for side in (0, new - old)]
    return functional.pad(weight, padding)


def _form(
    needs: str, change: Callable[[Tensor, Factors, float], Tensor], may: str = "", *, is_sum: bool = False
) -> Form:
    return Form(frozenset(needs.split()), frozenset(may.split()), change, is_sum)


_LOKR_MAY: Final = "alpha dora_scale"

WEIGHT_FORMS: Final = (
    _form("reshape_weight", _reshaped),
    _form("up down", _added(lora), "mid alpha dora_scale", is_sum=True),
    _form("hada_w1_a hada_w1_b hada_w2_a hada_w2_b", _added(loha), "hada_t1 hada_t2 alpha dora_scale", is_sum=True),
    _form("lokr_w1 lokr_w2", _added(lokr), _LOKR_MAY, is_sum=True),
    _form("lokr_w1 lokr_w2_a lokr_w2_b", _added(lokr), f"lokr_t2 {_LOKR_MAY}", is_sum=True),
    _form("lokr_w1_a lokr_w1_b lokr_w2", _added(lokr), _LOKR_MAY, is_sum=True),
    _form("lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b", _added(lokr), f"lokr_t2 {_LOKR_MAY}", is_sum=True),
    _form("a1 a2 b1 b2", _added(glora), "alpha dora_scale"),
    _form("oft_blocks", oft, "alpha rescale"),
    _form("diff", _difference("diff"), is_sum=True),
    _form("w_norm", _difference("w_norm"), is_sum=True),
    _form("set_weight", _set),
)
"""What can be done to a module's weight, in the order in which it is done."""

BIAS_FORMS: Final = (
    _form("diff_b", _difference("diff_b"), is_sum=True),
    _form("b_norm", _difference("b_norm"), is_sum=True),
)
"""The same for its bias."""


def attempt(change: Callable[[], Tensor]) -> Tensor | None:
    """What ``change`` makes, None where shapes do not go together. On the meta device nothing is computed."""
    try:
        return change()
    except (Misfit, RuntimeError, IndexError):  # torch says by the latter two which shapes do not go together
        return None
