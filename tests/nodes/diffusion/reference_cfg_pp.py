"""Plain loops of the solvers that take the unconditional prediction apart; see ``reference``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from scipy.integrate import quad
from torch import Tensor

from tests.nodes.diffusion.reference_types import Both, Draw, Model, ancestral


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
