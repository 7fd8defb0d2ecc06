"""Plain loops of the solvers with stages, and of those that came with them; see ``reference``."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

from tests.nodes.diffusion.reference_types import Draw, Loop, Model, ancestral


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


STAGED: dict[str, Loop] = {
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
}
