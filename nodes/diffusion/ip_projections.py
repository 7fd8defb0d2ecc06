"""From what CLIP sees to tokens that cross attention reads: the projections of IP-Adapters.

- ``base``: a linear layer to several tokens, normed (Ye et al. 2023, section 3.2.1).
- ``full``: a network of two layers for each of CLIP's patches.
- ``plus``: a resampler, learned queries that look at CLIP's patches (Alayrac et al. 2022, "Flamingo", section 3.1).

Weights have the names that tencent-ailab's files have behind ``image_proj.``; ``original_names`` gives them for files of diffusers' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

Kind = Literal["base", "full", "plus"]

MARKS: Final[Mapping[Kind, str]] = {"base": "proj.weight", "full": "proj.3.weight", "plus": "latents"}
"""A weight that each kind has alone."""

READERS: Final[Mapping[Kind, str]] = {"base": "proj.weight", "full": "proj.0.weight", "plus": "proj_in.weight"}
"""The weight whose columns are what CLIP gives."""

_HEAD: Final = 64
"""Width of a head of the resampler."""

_OF_DIFFUSERS: Final = (
    (r"^image_embeds\.", "proj."),
    (r"^ff\.net\.0\.proj\.", "proj.0."),
    (r"^ff\.net\.2\.", "proj.2."),
    (r"^(layers\.\d+)\.ln0\.", r"\1.0.norm1."),
    (r"^(layers\.\d+)\.ln1\.", r"\1.0.norm2."),
    (r"^(layers\.\d+)\.attn\.to_out\.0\.", r"\1.0.to_out."),
    (r"^(layers\.\d+)\.attn\.to_(\w)\.", r"\1.0.to_\2."),
    (r"^(layers\.\d+)\.ff\.0\.", r"\1.1.0."),
    (r"^(layers\.\d+)\.ff\.1\.net\.0\.proj\.", r"\1.1.1."),
    (r"^(layers\.\d+)\.ff\.1\.net\.2\.", r"\1.1.3."),
)


def original_names(names: Iterable[str]) -> dict[str, str]:
    """Original name of each of ``names``, which may be diffusers' -> the name itself."""
    listed = list(names)
    found = {}
    for name in listed:
        new = name
        for pattern, spelled in _OF_DIFFUSERS:
            new = re.sub(pattern, spelled, new)
        found[new] = name
    if "proj.0.weight" in found and "proj.3.weight" not in found and "ff.net.0.proj.weight" in listed:
        found |= {f"proj.3.{end}": found.pop(f"norm.{end}") for end in ("weight", "bias") if f"norm.{end}" in found}
    return found


def needed(kind: Kind, layers: int) -> list[str]:
    """The weights that a projection cannot do without; ``layers`` are a resampler's."""
    if kind == "base":
        return ["proj.weight", "proj.bias", "norm.weight", "norm.bias"]
    if kind == "full":
        return [f"proj.{number}.{end}" for number in (0, 2, 3) for end in ("weight", "bias")]
    ends = [f"{name}.{end}" for name in ("proj_in", "proj_out", "norm_out") for end in ("weight", "bias")]
    inner = ("0.norm1.weight", "0.norm1.bias", "0.norm2.weight", "0.norm2.bias", "0.to_q.weight", "0.to_out.weight",
             "1.0.weight", "1.0.bias", "1.1.weight", "1.3.weight")  # fmt: skip
    return ["latents", *ends, *(f"layers.{number}.{name}" for number in range(layers) for name in inner)]


@torch.no_grad()
def project(kind: Kind, weights: Mapping[str, Tensor], seen: Tensor) -> Tensor:
    """The tokens [n,T,D] for ``seen``: CLIP's projected state [n,E] for ``base``, the states of its patches [n,P,E] for the others."""
    if kind == "base":
        tokens = linear(seen, weights["proj.weight"], weights["proj.bias"])
        return _normed(weights, "norm", tokens.unflatten(1, (-1, weights["norm.weight"].shape[0])))
    if kind == "full":
        hidden = gelu(linear(seen, weights["proj.0.weight"], weights["proj.0.bias"]))
        return _normed(weights, "proj.3", linear(hidden, weights["proj.2.weight"], weights["proj.2.bias"]))
    return _resampled(weights, seen)


def _normed(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def _resampled(weights: Mapping[str, Tensor], seen: Tensor) -> Tensor:
    latents = weights["latents"].expand(len(seen), -1, -1)
    x = linear(seen, weights["proj_in.weight"], weights["proj_in.bias"])
    for number in range(resampler_layers(weights)):
        layer = f"layers.{number}"
        latents = latents + _looked(weights, f"{layer}.0", x, latents)
        hidden = gelu(linear(_normed(weights, f"{layer}.1.0", latents), weights[f"{layer}.1.1.weight"]))
        latents = latents + linear(hidden, weights[f"{layer}.1.3.weight"])
    return _normed(weights, "norm_out", linear(latents, weights["proj_out.weight"], weights["proj_out.bias"]))


def resampler_layers(names: Iterable[str]) -> int:
    """How many layers a resampler with weights of these names has."""
    numbers = (re.match(r"layers\.(\d+)\.", name) for name in names)
    return 1 + max((int(number[1]) for number in numbers if number), default=-1)


def _looked(weights: Mapping[str, Tensor], name: str, x: Tensor, latents: Tensor) -> Tensor:
    """What ``latents`` [n,T,C] find in ``x`` [n,P,C] and in themselves."""
    own = _normed(weights, f"{name}.norm2", latents)
    around = torch.cat([_normed(weights, f"{name}.norm1", x), own], 1)
    if (both := weights.get(f"{name}.to_kv.weight")) is not None:
        key, value = linear(around, both).chunk(2, -1)
    else:
        key, value = (linear(around, weights[f"{name}.to_{part}.weight"]) for part in ("k", "v"))
    query = linear(own, weights[f"{name}.to_q.weight"])
    heads = [it.unflatten(-1, (-1, _HEAD)).transpose(1, 2) for it in (query, key, value)]
    found = scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    return linear(found, weights[f"{name}.to_out.weight"])
