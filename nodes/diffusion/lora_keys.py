"""How files of small weights name what they change.

A key is a module, spelled in one of many ways, and a role: ``lora_unet_mid_block_..._to_q`` and ``.lora_up.weight``.
``grouped`` takes keys apart; ``spellings`` gives every known way to spell a network's modules, each in the network's own names
and in the original layout's. Both are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from engine.models import Part
from nodes.diffusion.configs import PartConfig
from nodes.diffusion.layouts import TEXT_TOWER, original_names

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

TOWERS: Final[Mapping[str, int]] = {"": 1, "clip_l.": 1, "clip_g.": 2, "t5xxl.": 3}
"""Start of a tensor's name in the network of text encoders -> the tower's number. A lone tower has no name of its own."""

_TOWER_NAMES: Final[Mapping[int, tuple[str, ...]]] = {1: ("clip_l", "clip_h"), 2: ("clip_g",), 3: ("t5xxl",)}

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


def spellings(part: Part, config: PartConfig, names: Iterable[str]) -> dict[str, str]:
    """Every spelling of a module of the network of ``config`` -> the module's path in it, for all ``names`` of its tensors."""
    paths: dict[str, str] = {}
    for name, original in original_names(config, names).items():
        path, _, leaf = name.rpartition(".")
        if leaf in ("weight", "bias"):
            before = original.removesuffix(f".{leaf}")
            ways = _text_spellings(path) if part == "clip" else (*_spellings(path), *_spellings(before))
            paths |= dict.fromkeys(ways, path)
    return paths


def _spellings(path: str) -> Iterator[str]:
    yield from (prefix + path.replace(".", "_") for prefix in FLAT)
    yield from (prefix + path for prefix in DOTTED)
    if ".to_" in path:  # diffusers once kept the layers of a LoRA in an attention's processor
        processor = path.replace(".to_", ".processor.to_").removesuffix(".0")
        yield from (prefix + processor for prefix in DOTTED)


def _text_spellings(path: str) -> Iterator[str]:
    """A path in a network of one tower or several, by the names that towers have in a LoRA."""
    tower = next((start for start in TOWERS if start and path.startswith(start)), "")
    number = TOWERS[tower]
    bare = path.removeprefix(tower).removeprefix("transformer.").removeprefix(TEXT_TOWER)
    numbers = ("", "1") if number == 1 else (str(number),)
    encoder = "text_encoder" if number == 1 else f"text_encoder_{number}"
    for way in (TEXT_TOWER + bare, bare):
        yield from (f"lora_te{mark}_{way.replace('.', '_')}" for mark in numbers)
        yield from (f"{prefix}{encoder}.{way}" for prefix in ("", "base_model.model."))
        yield from (f"text_encoders.{name}.transformer.{way}" for name in _TOWER_NAMES[number])
        if number == 1:
            yield f"lycoris_{way.replace('.', '_')}"
            yield f"cond_stage_model.transformer.{way}"
            yield way
            yield f"base_model.model.{way}"
