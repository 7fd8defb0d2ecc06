"""The same solvers once more, as plain loops over a model, in the other textbook forms of their formulas.

Written to be checked against, not to be used: nothing is shared with the samplers, the multistep integrals are done by
numerical quadrature, and the variance preserving solvers work on ``x / sqrt(1 + sigma^2)`` instead of ``x``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

Model = Callable[[Tensor, float], Tensor]
Draw = Callable[[float, float], Tensor]
Both = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""The guided and the unconditional prediction."""
Loop = Callable[[Model, Tensor, list[float], Draw], Tensor]


def ancestral(start: float, end: float) -> tuple[float, float]:
    up = end * math.sqrt(max(start**2 - end**2, 0)) / start
    return math.sqrt(end**2 - up**2), up


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


def heunpp2(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for i in range(len(sigmas) - 1):
        ahead = sigmas[i : min(i + 3, len(sigmas) - 1)]
        at, slopes = x, [(x - model(x, ahead[0])) / ahead[0]]
        for a, b in itertools.pairwise(ahead):
            at = at + slopes[-1] * (b - a)
            slopes.append((at - model(at, b)) / b)
        shares = [s / (len(ahead) * sigmas[0]) for s in ahead[1:]]
        mixed = [w * d for w, d in zip([1 - sum(shares), *shares], slopes, strict=True)]
        x = x + (sigmas[i + 1] - sigmas[i]) * torch.stack(mixed).sum(0)
    return x


def dpm_fast(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    count = len(sigmas) - 1
    low = sigmas[-1] or sigmas[-2]
    ends = np.geomspace(sigmas[0], low, count // 3 + 2).tolist()
    orders = [3] * (count // 3 - 1) + [2, 1] if count % 3 == 0 else [3] * (count // 3) + [count % 3]
    for order, a, b in zip(orders, ends[:-1], ends[1:], strict=True):
        x = _dpm_solver(model, x, a, b, order)
    return x


def _dpm_solver(model: Model, x: Tensor, a: float, b: float, order: int) -> Tensor:
    """The integral of ``-e^-t eps`` over t = -log sigma, eps a line through the first evaluation and the newest."""

    def eps(at: Tensor, s: float) -> Tensor:
        return (at - model(at, s)) / s

    def moved(part: float, slope: Tensor | float) -> Tensor:
        h = part * math.log(a / b)
        end = a * math.exp(-h)
        linear = float(quad(lambda s: end * math.exp(h - s) * s, 0, h)[0])
        return x - (a - end) * first - linear * slope

    first, h = eps(x, a), math.log(a / b)
    if order == 1:
        return moved(1, 0.0)
    if order == 2:
        middle = eps(moved(1 / 2, 0.0), math.sqrt(a * b))
        # Order 2 takes (e^h - 1) / 2 in the place of the integral.
        return moved(1, 0.0) - (a - b) * (middle - first)
    third = eps(moved(1 / 3, 0.0), a * math.exp(-h / 3))
    two_thirds = eps(moved(2 / 3, (third - first) / (h / 3)), a * math.exp(-2 * h / 3))
    return moved(1, (two_thirds - first) / (2 * h / 3))


def dpmpp_2m_sde_heun(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    old: Tensor | None = None
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, a)
        if b == 0:
            x = denoised
            continue
        h = math.log(a / b)
        x = (b / a) ** 2 * x + (1 - (b / a) ** 2) * denoised + draw(a, b) * b * math.sqrt(1 - (b / a) ** 2)
        if old is not None:
            slope = (denoised - old) / math.log(sigmas[i - 1] / a)
            x = x + quad(lambda s, h=h: 2 * math.exp(2 * (s - h)) * s, 0, h)[0] * slope
        old = denoised
    return x


def ipndm_v(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    slopes: list[Tensor] = []
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, a)
        slopes = [(x - denoised) / a, *slopes][:4]
        if b == 0:
            return denoised
        h = [sigmas[j + 1] - sigmas[j] for j in range(i, i - len(slopes), -1)]
        mean = slopes[0]
        if len(slopes) > 1:
            mean = mean + (slopes[0] - slopes[1]) * h[0] / h[1] / 2
        if len(slopes) > 2:
            exact = (h[0] / (h[0] + h[1]) / 3) * h[0] * (h[0] + h[1]) / (h[1] * (h[1] + h[2]))
            curve = (slopes[0] - slopes[1]) - (slopes[1] - slopes[2]) * h[1] / h[2]
            mean = mean + (1 - exact) / 2 * curve
        if len(slopes) > 3:
            t = (1 - h[0] / (3 * (h[0] + h[1]))) / 2
            t += (1 - h[0] / (2 * (h[0] + h[1]))) * h[0] / (6 * (h[0] + h[1] + h[2]))
            t *= h[0] * (h[0] + h[1]) * sum(h[:3]) / (h[1] * (h[1] + h[2]) * sum(h[1:]))
            q = h[1] * (h[1] + h[2]) / (h[2] * (h[2] + h[3]))
            second = q * (slopes[1] - slopes[2] * (1 + h[2] / h[3]) + slopes[3] * h[1] / h[2])
            mean = mean + t * (curve - second)
        x = x + (b - a) * mean
    return x


def res_multistep(model: Model, x: Tensor, sigmas: list[float], draw: Draw, noisy: bool = False) -> Tensor:
    old: Tensor | None = None
    down_before = 0.0
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, a)
        if b == 0:
            return denoised
        down, up = ancestral(a, b) if noisy else (b, 0.0)
        h = math.log(a / down)
        x = math.exp(-h) * x + (1 - math.exp(-h)) * denoised
        if old is not None:
            slope = (denoised - old) / math.log(sigmas[i - 1] / down_before)
            x = x + quad(lambda s, h=h: math.exp(s - h) * s, 0, h)[0] * slope
        x = x + draw(a, b) * up if noisy else x
        old, down_before = denoised, down
    return x


def res_multistep_ancestral(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    return res_multistep(model, x, sigmas, draw, noisy=True)


def gradient_estimation(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    before: Tensor | None = None
    for a, b in itertools.pairwise(sigmas):
        noise = (x - model(x, a)) / a
        if b == 0:
            return x - a * noise
        x = x - (a - b) * (2 * noise - before if before is not None else noise)
        before = noise
    return x


def er_sde(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    def phi(s: float) -> float:
        return s * (math.exp(s**0.3) + 10)

    past: list[Tensor] = []
    before: Tensor | None = None
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        past = [model(x, a), *past][:2]
        if b == 0:
            return past[0]
        r = phi(b) / phi(a)
        x = r * x + (1 - r) * past[0] + draw(a, b) * math.sqrt(b**2 - (a * r) ** 2)
        if len(past) > 1:
            slope = (past[0] - past[1]) / (a - sigmas[i - 1])
            x = x + (b - a + phi(b) * quad(lambda s: 1 / phi(s), b, a)[0]) * slope
            if before is not None:
                curve = 2 * (slope - before) / (a - sigmas[i - 2])
                inner = quad(lambda s, a=a: (s - a) / phi(s), b, a)[0]
                x = x + ((b - a) ** 2 / 2 + phi(b) * inner) * curve
            before = slope
    return x


def _seeds(model: Model, x: Tensor, sigmas: list[float], draw: Draw, parts: list[float]) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        first = newest = model(x, a)
        if b == 0:
            return first
        h = math.log(a / b)
        path = torch.zeros_like(x)
        for before, end in itertools.pairwise([0.0, *parts, 1.0]):
            s, e = a * math.exp(-before * h), a * math.exp(-end * h)
            # The path of the noise: the part so far shrinks twice as sigma does, and the rest is fresh.
            path = path * (e / s) ** 2 + draw(s, e) * math.sqrt(e**2 - e**4 / s**2)
            gain = 1 - (e / a) ** 2
            weight = quad(lambda t, T=end * h: 2 * math.exp(2 * (t - T)) * t, 0, end * h)[0]
            slope = gain * h / 2 if len(parts) == 1 else weight
            at = (e / a) ** 2 * x + gain * first + path
            if before > 0:
                at = at + slope * (newest - first) / (before * h)
            newest = model(at, e) if end < 1 else newest
        x = at
    return x


def seeds_2(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    return _seeds(model, x, sigmas, draw, [1 / 2])


def seeds_3(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    return _seeds(model, x, sigmas, draw, [1 / 3, 2 / 3])


def sa_solver(model: Model, x: Tensor, sigmas: list[float], draw: Draw, pece: bool = False) -> Tensor:
    n = len(sigmas) - 1
    known: dict[int, Tensor] = {}
    noise: Tensor | float = 0.0
    guess = x
    for i in range(n):
        denoised = known[i] = model(guess, sigmas[i])
        last = sigmas[i + 1] == 0
        order = min(4, i + 1, n - i)
        if i > 0 and (pece or not last):
            x = _adams(x, known, sigmas, i - 1, list(range(i - order + 1, i + 1))) + noise
            if pece:
                denoised = known[i] = model(x, sigmas[i])
        else:
            x = guess
        if last:
            return denoised
        order = min(3, i + 1, n - 1 - i)
        tau = _tau(sigmas[i + 1])
        a, b = sigmas[i], sigmas[i + 1]
        noise = draw(a, b) * b * math.sqrt(1 - (b / a) ** (2 * tau**2)) if tau > 0 else 0.0
        guess = _adams(x, known, sigmas, i, list(range(i - order + 1, i + 1))) + noise
    return x


def _tau(sigma: float) -> float:
    """1 in the middle of the way of Stable Diffusion, 0.2 to 0.8 of its timesteps."""
    return 1.0 if 0.5712 <= sigma <= 5.0924 else 0.0


def _adams(x: Tensor, known: dict[int, Tensor], sigmas: list[float], i: int, at: list[int]) -> Tensor:
    """From sigma i to i + 1, the predictions ``at`` interpolated by a polynomial in lambda."""
    a, b = sigmas[i], sigmas[i + 1]
    rate = 1 + _tau(b) ** 2
    nodes = [-math.log(sigmas[k]) for k in at]
    total: Tensor = (b / a) ** rate * x
    for j, k in enumerate(at):

        def integrand(lam: float, j: int = j) -> float:
            basis = float(math.prod((lam - n) / (nodes[j] - n) for m, n in enumerate(nodes) if m != j))
            return rate * math.exp(rate * (lam + math.log(b))) * basis

        weight = float(quad(integrand, -math.log(a), -math.log(b), epsabs=1e-10)[0])
        total = total + weight * known[k]
    return total


def sa_solver_pece(model: Model, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    return sa_solver(model, x, sigmas, draw, pece=True)


def dpmpp_2s(model: Model, x: Tensor, sigmas: list[float], draw: Draw | None) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        m = math.sqrt(a * b)
        first = model(x, a)
        half = m / a * x + (1 - m / a) * first
        x = b / a * x + (1 - b / a) * model(half, m) if b > 0 else first
    return x


def euler_cfg_pp(model: Both, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        c, u = model(x, a)
        x = c + b * (x - u) / a
    return x


def euler_ancestral_cfg_pp(model: Both, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        c, u = model(x, a)
        down, up = ancestral(a, b)
        x = c + down * (x - u) / a + (up * draw(a, b) if b > 0 else 0)
    return x


def euler_twice_guided(model: Both, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        c, u = model(x, a)
        x = x + (b / a - 1) * (x + u - 2 * c)
    return x


def dpmpp_2s_ancestral_cfg_pp(model: Both, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    for a, b in itertools.pairwise(sigmas):
        c, u = model(x, a)
        if b == 0:
            return c
        down, up = ancestral(a, b)
        h = math.log(a / down)
        half = math.exp(-h / 2) * (x + c - u) - math.expm1(-h / 2) * c
        c2, u2 = model(half, a * math.exp(-h / 2))
        x = math.exp(-h) * (x + c - u2) - math.expm1(-h) * c2 + up * draw(a, b)
    return x


def dpmpp_2m_cfg_pp(model: Both, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    old: Tensor | None = None
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        c, u = model(x, a)
        x = c + b / a * (x - u)
        if old is not None and b > 0:
            x = x + (1 - b / a) * (c - old) * math.log(a / b) / math.log(sigmas[i - 1] / a) / 2
        old = u
    return x


def res_multistep_cfg_pp(model: Both, x: Tensor, sigmas: list[float], draw: Draw, noisy: bool = False) -> Tensor:
    old: Tensor | None = None
    down_before = 0.0
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        c, u = model(x, a)
        if b == 0:
            return c
        down, up = ancestral(a, b) if noisy else (b, 0.0)
        h = math.log(a / down)
        if old is None:
            x = c + down * (x - u) / a
        else:
            slope = (u - old) / math.log(sigmas[i - 1] / down_before)
            x = down / a * (x + c - u) + (1 - down / a) * u
            x = x + quad(lambda s, h=h: math.exp(s - h) * s, 0, h)[0] * slope
        x = x + draw(a, b) * up if noisy else x
        old, down_before = u, down
    return x


def res_multistep_ancestral_cfg_pp(model: Both, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    return res_multistep_cfg_pp(model, x, sigmas, draw, noisy=True)


def gradient_estimation_cfg_pp(model: Both, x: Tensor, sigmas: list[float], draw: Draw) -> Tensor:
    before: Tensor | None = None
    for a, b in itertools.pairwise(sigmas):
        c, u = model(x, a)
        noise = (x - u) / a
        x = c + b * noise
        if before is not None and b > 0:
            x = x - (a - b) * (noise - before)
        before = noise
    return x


APART: dict[str, Callable[[Both, Tensor, list[float], Draw], Tensor]] = {
    "euler_cfg_pp": euler_cfg_pp,
    "euler_ancestral_cfg_pp": euler_ancestral_cfg_pp,
    "euler_twice_guided": euler_twice_guided,
    "dpmpp_2s_ancestral_cfg_pp": dpmpp_2s_ancestral_cfg_pp,
    "dpmpp_2m_cfg_pp": dpmpp_2m_cfg_pp,
    "res_multistep_cfg_pp": res_multistep_cfg_pp,
    "res_multistep_ancestral_cfg_pp": res_multistep_ancestral_cfg_pp,
    "gradient_estimation_cfg_pp": gradient_estimation_cfg_pp,
}


LOOPS: dict[str, Loop] = {
    "heunpp2": heunpp2,
    "dpm_fast": dpm_fast,
    "dpmpp_2m_sde_heun": dpmpp_2m_sde_heun,
    "ipndm_v": ipndm_v,
    "res_multistep": res_multistep,
    "res_multistep_ancestral": res_multistep_ancestral,
    "gradient_estimation": gradient_estimation,
    "er_sde": er_sde,
    "seeds_2": seeds_2,
    "seeds_3": seeds_3,
    "sa_solver": sa_solver,
    "sa_solver_pece": sa_solver_pece,
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
