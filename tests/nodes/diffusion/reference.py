"""The same solvers once more, as plain loops over a model, in the other textbook forms of their formulas.

Written to be checked against, not to be used: nothing is shared with the samplers, the multistep integrals are done by
numerical quadrature, and the variance preserving solvers work on ``x / sqrt(1 + sigma^2)`` instead of ``x``."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

from tests.nodes.diffusion.reference_staged import STAGED
from tests.nodes.diffusion.reference_types import Draw, Loop, Model, ancestral


def euler(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        x = x + (x - model(x, a)) / a * (b - a)
    return x


def euler_ancestral(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        down, up = ancestral(a, b)
        x = x + (x - model(x, a)) / a * (down - a)
        if b > 0:
            x = x + draw(a, b) * up
    return x


def heun(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        d = (x - model(x, a)) / a
        guess = x + d * (b - a)
        if b > 0:
            d = 0.5 * d + 0.5 * (guess - model(guess, b)) / b
        x = x + d * (b - a)
    return x


def _middle(model: Model, x: Tensor, a: float, b: float) -> Tensor:
    """The midpoint rule from a to b with the middle in log sigma."""
    m = math.sqrt(a * b)
    half = x + (x - model(x, a)) / a * (m - a)
    return x + (half - model(half, m)) / m * (b - a)


def dpm_2(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        x = _middle(model, x, a, b) if b > 0 else model(x, a)
    return x


def dpm_2_ancestral(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        down, up = ancestral(a, b)
        x = _middle(model, x, a, down) + draw(a, b) * up if b > 0 else model(x, a)
    return x


def _plms_weight(nodes: list[float], j: int, a: float, b: float) -> float:
    def basis(t: float) -> float:
        return math.prod((t - n) / (nodes[j] - n) for k, n in enumerate(nodes) if k != j)

    return float(quad(basis, a, b, epsrel=1e-4)[0])


def lms(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    slopes: list[Tensor] = []
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, a)
        slopes = [(x - denoised) / a, *slopes][:4]
        nodes = sigmas[: i + 1][::-1][: len(slopes)]
        moved = x + sum(_plms_weight(nodes, j, a, b) * d for j, d in enumerate(slopes))
        x = moved if b > 0 else denoised
    return x


def dpmpp_2s_ancestral(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        if b == 0:
            x = model(x, a)
            continue
        down, up = ancestral(a, b)
        h = math.log(a / down)
        half = math.exp(-h / 2) * x - math.expm1(-h / 2) * model(x, a)
        x = math.exp(-h) * x - math.expm1(-h) * model(half, a * math.exp(-h / 2)) + draw(a, b) * up
    return x


def dpmpp_sde(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        denoised = model(x, a)
        if b == 0:
            x = denoised
            continue
        m = math.sqrt(a * b)
        down, up = ancestral(a, m)
        half = down / a * x + (1 - down / a) * denoised + draw(a, m) * up
        down, up = ancestral(a, b)
        x = down / a * x + (1 - down / a) * model(half, m) + draw(a, b) * up
    return x


def dpmpp_2m(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    old: Tensor | None = None
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, a)
        used = denoised
        if old is not None and b > 0:
            r = math.log(sigmas[i - 1] / a) / math.log(a / b)
            used = denoised + (denoised - old) / (2 * r)
        x = b / a * x + (1 - b / a) * used
        old = denoised
    return x


def dpmpp_2m_sde(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    old: Tensor | None = None
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, a)
        if b == 0:
            x = denoised
            continue
        used = denoised
        if old is not None:
            used = denoised + 0.5 * (denoised - old) * math.log(a / b) / math.log(sigmas[i - 1] / a)
        x = (b / a) ** 2 * x + (1 - (b / a) ** 2) * used + draw(a, b) * b * math.sqrt(1 - (b / a) ** 2)
        old = denoised
    return x


def dpmpp_3m_sde(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    past: list[Tensor] = []
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        past = [model(x, a), *past][:3]
        if b == 0:
            x = past[0]
            continue
        h = math.log(a / b)
        # Newton's divided differences over lambda, with the derivatives at the newest point.
        lam = [-math.log(s) for s in sigmas[: i + 1][::-1][: len(past)]]
        first = second = torch.zeros_like(x)
        if len(past) > 1:
            first = (past[0] - past[1]) / (lam[0] - lam[1])
        if len(past) > 2:
            before = (past[1] - past[2]) / (lam[1] - lam[2])
            second = (first - before) / (lam[0] - lam[2])
            first = first + second * (lam[0] - lam[1])
        w1 = quad(lambda s, h=h: 2 * math.exp(2 * (s - h)) * s, 0, h)[0]
        # The solver as published takes half of the second difference's term.
        w2 = 0.5 * quad(lambda s, h=h: 2 * math.exp(2 * (s - h)) * s**2, 0, h)[0]
        x = (b / a) ** 2 * x + (1 - (b / a) ** 2) * past[0] + w1 * first + w2 * second
        x = x + draw(a, b) * b * math.sqrt(1 - (b / a) ** 2)
    return x


def ddpm(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        # The posterior q(x_b | x_a, x0) of Ho et al., eq. 7, in x / sqrt(1 + sigma^2).
        abar_a, abar_b = 1 / (1 + a**2), 1 / (1 + b**2)
        beta = 1 - abar_a / abar_b
        y, x0 = x * math.sqrt(abar_a), model(x, a)
        mean = math.sqrt(abar_b) * beta / (1 - abar_a) * x0
        mean = mean + math.sqrt(1 - beta) * (1 - abar_b) / (1 - abar_a) * y
        noise = math.sqrt((1 - abar_b) / (1 - abar_a) * beta) * draw(a, b) if b > 0 else 0
        x = (mean + noise) / math.sqrt(abar_b)
    return x


def lcm(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        x = model(x, a)
        if b > 0:
            x = x + b * draw(a, b)
    return x


def ipndm(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    weights: list[list[float]] = [[1], [3 / 2, -1 / 2], [23 / 12, -4 / 3, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -3 / 8]]
    slopes: list[Tensor] = []
    for a, b in itertools.pairwise(sigmas):
        denoised = model(x, a)
        slopes = [(x - denoised) / a, *slopes][:4]
        moved = x + (b - a) * sum(w * d for w, d in zip(weights[len(slopes) - 1], slopes, strict=True))
        x = moved if b > 0 else denoised
    return x


def _vp_time(sigma: float) -> float:
    """The t with ``p t^2 + q t = log(1 + sigma^2)``, the parabola through sigma 0.002 at 0.001 and 80 at 1, by
    bisection."""
    low, high = math.log1p(0.002**2), math.log1p(80.0**2)
    p = (high - low / 1e-3) / (1 - 1e-3)
    q = high - p
    a, b = 0.0, 2.0
    for _ in range(200):
        m = (a + b) / 2
        a, b = (m, b) if p * m * m + q * m < math.log1p(sigma**2) else (a, m)
    return a


def deis(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    slopes: list[Tensor] = []
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        slopes = [(x - model(x, a)) / a, *slopes][: 3 if b > 0 else 1]
        nodes = [_vp_time(s) for s in sigmas[: i + 1][::-1][: len(slopes)]]

        def basis(sigma: float, j: int, nodes: list[float] = nodes) -> float:
            t = _vp_time(sigma)
            return math.prod((t - n) / (nodes[j] - n) for k, n in enumerate(nodes) if k != j)

        x = x + sum(quad(basis, a, b, args=(j,), epsrel=1e-8)[0] * d for j, d in enumerate(slopes))
    return x


def uni_pc(model: Model, x: Tensor, sigmas: list[float], draw: Draw, variant: str = "bh1") -> Tensor:
    sigmas = [s if s > 0 else 0.001 for s in sigmas]
    steps = len(sigmas) - 1
    x = x / math.sqrt(1 + sigmas[0] ** 2)
    models = [model(x * math.sqrt(1 + sigmas[0] ** 2), sigmas[0])]
    for k in range(1, steps + 1):
        order = max(min(3, steps - 1, k, steps + 1 - k), 1)
        x, model_t = _uni_pc_step(model, x, models, sigmas, k, order, variant, correct=k < steps)
        if model_t is not None:
            models.append(model_t)
    return x * math.sqrt(1 + sigmas[-1] ** 2)


def _uni_pc_step(
    model: Model,
    x: Tensor,
    models: list[Tensor],
    sigmas: list[float],
    k: int,
    order: int,
    variant: str,
    *,
    correct: bool,
) -> tuple[Tensor, Tensor | None]:
    lam = [-math.log(s) for s in sigmas]
    h = lam[k] - lam[k - 1]
    alpha, std = 1 / math.sqrt(1 + sigmas[k] ** 2), sigmas[k] / math.sqrt(1 + sigmas[k] ** 2)
    std_before = sigmas[k - 1] / math.sqrt(1 + sigmas[k - 1] ** 2)
    B = -h if variant == "bh1" else math.expm1(-h)
    r = [(lam[k - 1 - i] - lam[k - 1]) / h for i in range(1, order)] + [1.0]
    D = [(models[k - 1 - i] - models[k - 1]) / r[i - 1] for i in range(1, order)]
    # phi_{i+1}(-h) * i! by their integral: int_0^1 e^{-h (1 - s)} s^i / i! ds
    b = [
        -h * quad(lambda s, i=i: math.exp(-h * (1 - s)) * s**i / math.factorial(i), 0, 1)[0] * math.factorial(i) / B
        for i in range(1, order + 1)
    ]
    R = np.array([[node**i for node in r] for i in range(order)])
    plain = std / std_before * x - alpha * math.expm1(-h) * models[k - 1]
    p = [0.5] if order == 2 else list(np.linalg.solve(R[:-1, :-1], b[:-1])) if order > 2 else []
    guess = plain - alpha * B * sum((w * d for w, d in zip(p, D, strict=True)), torch.zeros_like(x))
    if not correct:
        return guess, None
    model_t = model(guess * math.sqrt(1 + sigmas[k] ** 2), sigmas[k])
    c = [0.5] if order == 1 else list(np.linalg.solve(R, b))
    change = sum((w * d for w, d in zip(c[:-1], D, strict=True)), torch.zeros_like(x))
    return plain - alpha * B * (change + c[-1] * (model_t - models[k - 1])), model_t


def uni_pc_bh2(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    return uni_pc(model, x, sigmas, draw, "bh2")


LOOPS: dict[str, Loop] = {
    **STAGED,
    "euler": euler,
    "ddim": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpm_2": dpm_2,
    "dpm_2_ancestral": dpm_2_ancestral,
    "lms": lms,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "ddpm": ddpm,
    "lcm": lcm,
    "ipndm": ipndm,
    "deis": deis,
    "uni_pc": uni_pc,
    "uni_pc_bh2": uni_pc_bh2,
}
