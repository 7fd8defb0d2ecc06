"""How files of small weights name what they change.

A key is a module, spelled in one of many ways, and a role: ``lora_unet_mid_block_..._to_q`` and ``.lora_up.weight``.
``grouped`` takes keys apart; ``spellings`` gives every known way to spell a network's modules, each in the network's own names
and in the original layout's. Both are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from nodes.diffusion.configs import PartConfig, Tower, TowersConfig
from nodes.diffusion.layouts import original_names, original_places

Group = Mapping[str, str]
"""The keys of one module by role."""

_PAIRS: Final = (
    ".lora_{}.weight",
    "_lora.{}.weight",
    ".lora.{}.weight",
    ".lora_linear_layer.{}.weight",
)
_PEFT_PAIRS: Final = (".lora_{}.weight", ".lora_{}.default.weight", ".lora_{}.default_0.weight", ".lora_{}")
_PLAIN: Final = (
    "alpha", "dora_scale", "rescale", "oft_blocks", "diff", "diff_b", "w_norm", "b_norm", "set_weight", "reshape_weight",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
)  # fmt: skip
_MAGNITUDE: Final = (".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_magnitude_vector.default.weight")

SUFFIXES: Final[Mapping[str, str]] = {
    **{pair.format(role): role for pair in _PAIRS for role in ("up", "down", "mid")},
    **{pair.format(old): role for pair in _PEFT_PAIRS for old, role in (("A", "down"), ("B", "up"))},
    **{f".{role}": role for role in _PLAIN},
    **{f".{role}.weight": role for role in ("a1", "a2", "b1", "b2")},
    **dict.fromkeys(_MAGNITUDE, "dora_scale"),
}
"""End of a key -> role. Kohya's, LyCORIS', diffusers' of several years, PEFT's."""

_LONGEST_FIRST: Final = sorted(SUFFIXES, key=len, reverse=True)

DOTTED: Final = (
    "", "unet.", "unet.base_model.model.", "base_model.model.", "base_model.model.unet.",
    "diffusion_model.", "model.diffusion_model.", "transformer.",
)  # fmt: skip
"""What stands before the path of a UNet's (or transformer's) module, dots and all."""

FLAT: Final = ("lora_unet_", "lycoris_", "lycoris_unet_", "lora_transformer_")
"""What stands before it where its dots are turned into underscores."""

TOWERS: Final[Mapping[Tower, tuple[int, str]]] = {
    "l": (1, "clip_l"),
    "h": (1, "clip_h"),
    "g": (2, "clip_g"),
    "t5": (3, "t5xxl"),
}
"""Text encoder -> its number and its name in the keys of LoRAs."""

_TEXT: Final = "text_model."

TEXT_MARKS: Final = ("lora_te", "text_encoder", "text_model.", "lycoris_text_model_", "cond_stage_model.")
"""How the spelling of a text encoder's module begins."""


def grouped(keys: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The keys by spelled module and role, and those that end in no known way."""
    groups: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for key in keys:
        suffix = next((suffix for suffix in _LONGEST_FIRST if key.endswith(suffix)), None)
        if suffix is None:
            others.append(key)
        else:
            groups.setdefault(key.removesuffix(suffix), {})[SUFFIXES[suffix]] = key
    return groups, others


def is_text(spelled: str) -> bool:
    """Whether a spelled module is one of a text encoder."""
    return spelled.removeprefix("base_model.model.").startswith(TEXT_MARKS)


def spellings(config: PartConfig, names: Iterable[str]) -> dict[str, str]:
    """Every spelling of a module of the network of ``config`` -> the module's path in it, for all ``names`` of its tensors."""
    paths: dict[str, str] = {}
    chosen = list(names)
    originals = original_names(config, chosen)
    for name in chosen:
        path, _, leaf = name.rpartition(".")
        if leaf not in ("weight", "bias"):
            continue
        if isinstance(config, TowersConfig):
            ways = list(text_spellings(path, is_alone=len(config.towers) == 1))
        else:
            before = originals.get(name, name).removesuffix(f".{leaf}")
            ways = [*_spellings(path), *_spellings(before)]
        paths |= dict.fromkeys(ways, path)
    return paths


def fused_spellings(config: PartConfig, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Every spelling of a module that the original layout has for several of the network, their rows one after the other -> their paths.

    The query, key and value of Stable Diffusion 3 are such a one.
    """
    if isinstance(config, TowersConfig):
        return {}
    rows: dict[str, dict[int, str]] = {}
    for name, place in original_places(config, names).items():
        if place.pieces > 1:
            rows.setdefault(place.name.rpartition(".")[0], {})[place.piece] = name.rpartition(".")[0]
    return {way: tuple(paths[n] for n in sorted(paths)) for module, paths in rows.items() for way in _spellings(module)}


def _spellings(path: str) -> Iterator[str]:
    yield from (prefix + path.replace(".", "_") for prefix in FLAT)
    yield from (prefix + path for prefix in DOTTED)
    if ".to_" in path:  # diffusers once kept the layers of a LoRA in an attention's processor
        processor = path.replace(".to_", ".processor.to_").removesuffix(".0")
        yield from (prefix + processor for prefix in DOTTED)


def text_spellings(path: str, *, is_alone: bool) -> Iterator[str]:
    """A path in a network of text encoders, by the names that those have in a LoRA. The only one there is may be called the first."""
    tower: Tower = path.partition(".")[0]  # type: ignore[assignment]  # the network's modules are called by the towers
    number, known = TOWERS[tower]
    inner = path.removeprefix(f"{tower}.").removeprefix("text.")
    is_projection = inner == "projection"
    bare = "text_projection" if is_projection else inner
    within = ("encoder." + bare, bare) if tower == "t5" else (bare,) if is_projection else (_TEXT + bare, bare)
    yield f"text_encoders.{known}.transformer.{within[0]}"
    for way in within:
        yield f"text_encoders.{known}.transformer.{way}"
        for own in {number, 1} if is_alone else {number}:
            numbers = ("", "1") if own == 1 else (str(own),)
            encoder = "text_encoder" if own == 1 else f"text_encoder_{own}"
            yield from (f"lora_te{mark}_{way.replace('.', '_')}" for mark in numbers)
            yield from (f"{prefix}{encoder}.{way}" for prefix in ("", "base_model.model."))
        if number == 1:
            yield f"lycoris_{way.replace('.', '_')}"
            yield f"cond_stage_model.transformer.{way}"
            yield way
            yield f"base_model.model.{way}"
