"""Chance that is the same everywhere: what a seed draws follows from a hash, so it holds for every machine and Python."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

_BITS: Final = 256


def below(bound: int, seed: int, purpose: str) -> int:
    """A number from 0 to ``bound - 1``, each as likely as the other (to one part in 2^190 for bounds up to 2^64).

    It is ``h * bound >> 256``, where h is the BLAKE2b digest of 32 bytes of ``"<purpose>:<seed>"``, read as a big-endian number.
    """
    digest = blake2b(f"{purpose}:{seed}".encode(), digest_size=_BITS // 8).digest()
    return int.from_bytes(digest, "big") * bound >> _BITS


def unit(seed: int, purpose: str) -> float:
    """A number from 0 up to, not including, 1: one of the 2^53 that lie evenly."""
    return float(below(2**53, seed, purpose) / 2**53)
