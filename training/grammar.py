"""The sentences the demo model understands.

A caption names a colour, a shape and a ground in any of several phrases, and may name a place and a size. Some phrases leave
something out, so that the model also knows what to do with less.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from training.world import COLOURS, COMBOS, PLACED_RADII, PLACES, SHAPES, SIZES, Combo

NOT_SAID = -1
"""Stands for a colour, shape or ground that a caption leaves out."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a caption says: numbers in COLOURS, SHAPES, COLOURS (NOT_SAID if it does not), PLACES and SIZES (0 if none)."""

    colour: int
    shape: int
    ground: int
    place: int = 0
    size: int = 0


PLAIN = "{a_thing} on {a_ground} background"
FULL_PHRASES = (
    PLAIN,
    "{thing} on {ground} background",
    "{a_thing} on {a_ground}",
    "{a_thing} with {a_ground} background",
    "{thing}, {ground} background",
    "{a_ground} background with {a_thing}",
    "a picture of {a_thing} on {a_ground} background",
    "a drawing of {a_thing} on {a_ground} background",
    "a photo of {a_thing} on {a_ground} background",
)
PARTIAL_PHRASES = ("{a_thing}", "{a_shape} on {a_ground} background")
PLACED_PHRASES = ("{a_thing} {place} on {a_ground} background", "{a_thing} on {a_ground} background, {place}")
PLACE_WORDS = ("", "on the left", "on the right", "at the top", "at the bottom", "in the center")
PLAIN_WEIGHT = 8.0
"""How often the plain phrase is used in training, for each use of another full one."""


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def phrase(pattern: str, meaning: Meaning) -> str:
    """Fill one of the phrases above; what the phrase does not mention is not said."""
    size = SIZES[meaning.size] + " " if meaning.size else ""
    thing, ground = f"{size}{COLOURS[meaning.colour]} {SHAPES[meaning.shape]}", COLOURS[meaning.ground]
    return pattern.format(
        thing=thing,
        ground=ground,
        a_thing=_with_article(thing),
        a_ground=_with_article(ground),
        a_shape=_with_article(size + SHAPES[meaning.shape]),
        place=PLACE_WORDS[meaning.place],
    )


def caption(meaning: Meaning) -> str:
    """The customary sentence, such as "a red circle on a blue background"."""
    return phrase(PLACED_PHRASES[0] if meaning.place else PLAIN, meaning)


def said(pattern: str, meaning: Meaning) -> Meaning:
    """What remains of a meaning when it is put in the words of this pattern."""
    return Meaning(
        colour=meaning.colour if "thing}" in pattern else NOT_SAID,
        shape=meaning.shape,
        ground=meaning.ground if "ground}" in pattern else NOT_SAID,
        place=meaning.place,
        size=meaning.size,
    )


def sizes(place: int) -> range:
    """The sizes a scene with this place may have, 0 among them."""
    return range(len(PLACED_RADII) if place else len(SIZES))


def patterns(place: int) -> tuple[str, ...]:
    """All phrases that fit a scene with this place."""
    return PLACED_PHRASES if place else FULL_PHRASES + PARTIAL_PHRASES


def pattern_weights(place: int) -> list[float]:
    """How often each of `patterns(place)` is used in training."""
    weights = [1.0] * len(patterns(place))
    if not place:
        weights[0] = PLAIN_WEIGHT
    return weights


def every_caption() -> Iterator[tuple[str, Meaning]]:
    """Each sentence of the grammar once, with what it says."""
    seen: set[str] = set()
    for combo, place, size in product(COMBOS, range(len(PLACES)), range(len(SIZES))):
        if size not in sizes(place):
            continue
        meaning = Meaning(*combo, place, size)
        for pattern in patterns(place):
            text = phrase(pattern, meaning)
            if text not in seen:
                seen.add(text)
                yield text, said(pattern, meaning)


def prompts(
    combos: Sequence[Combo], count: int, seed: int, placed: float = 0.25, sized: float = 0.25
) -> list[tuple[str, Meaning]]:
    """`count` distinct sentences that name colour, shape and ground, and what they say.

    The combinations take turns; phrase, place and size are drawn, the last two for shares of `placed` and `sized`.
    """
    chance = random.Random(seed)
    chosen: dict[str, Meaning] = {}
    while len(chosen) < count:
        place = chance.randrange(1, len(PLACES)) if chance.random() < placed else 0
        size = chance.choice(sizes(place)[1:]) if chance.random() < sized else 0
        meaning = Meaning(*combos[len(chosen) % len(combos)], place, size)
        text = phrase(chance.choice(PLACED_PHRASES if place else FULL_PHRASES), meaning)
        chosen.setdefault(text, meaning)
    return list(chosen.items())


def words() -> set[str]:
    """Every word of the grammar, and the comma."""
    return {word for text, _ in every_caption() for word in text.replace(",", " ,").split()}
