"""Captions say what their meaning is, and nothing else."""

from __future__ import annotations

import pytest

from nodes.diffusion.tokenizer import tokenize
from training.grammar import (
    FULL_PHRASES,
    NOT_SAID,
    PLACED_PHRASES,
    Meaning,
    caption,
    every_caption,
    phrase,
    prompts,
    said,
    words,
)
from training.text import LENGTH, token_rows
from training.world import COLOURS, COMBOS, HELD_OUT, PLACED_RADII, PLACES, SHAPES, SIZES


def test_the_customary_sentence() -> None:
    """The plain phrase and its forms with a place and a size read as people write them, with the right articles."""
    assert caption(Meaning(0, 0, 2)) == "a red circle on a blue background"
    assert caption(Meaning(5, 3, 5 - 4)) == "an orange star on a green background"
    assert caption(Meaning(5, 0, 2, size=1)) == "a small orange circle on a blue background"
    assert caption(Meaning(0, 0, 5, 1)) == "a red circle on the left on an orange background"


@pytest.mark.parametrize("pattern", [*FULL_PHRASES, *PLACED_PHRASES])
def test_full_phrases_name_colour_shape_and_ground(pattern: str) -> None:
    """Every full phrase names all that the judge looks for."""
    text = phrase(pattern, Meaning(0, 4, 7, 2))
    assert {"red", "heart", "black"} <= set(text.replace(",", "").split())


def test_what_a_phrase_leaves_out_is_not_said() -> None:
    """A phrase without a ground has no ground in its meaning; likewise without a colour."""
    meaning = Meaning(0, 1, 2)
    assert said("{a_thing}", meaning) == Meaning(0, 1, NOT_SAID)
    assert said("{a_shape} on {a_ground} background", meaning) == Meaning(NOT_SAID, 1, 2)


def test_every_caption_is_listed_once() -> None:
    """Full phrases with every size, placed ones with every place and size that goes with it; fewer for those that leave something out."""
    captions = [text for text, _ in every_caption()]
    partial = 2 * len(COLOURS) * len(SHAPES)
    placed = len(PLACED_PHRASES) * (len(PLACES) - 1) * len(PLACED_RADII)
    expected = len(COMBOS) * (len(FULL_PHRASES) * len(SIZES) + placed) + partial * len(SIZES)
    assert len(captions) == len(set(captions)) == expected


def test_judged_prompts_are_distinct_and_held_out() -> None:
    """200 different sentences, all of combinations that training leaves out."""
    asked = prompts(HELD_OUT, 200, seed=1)
    assert len({text for text, _ in asked}) == 200
    assert {(meaning.colour, meaning.shape, meaning.ground) for _, meaning in asked} == set(HELD_OUT)


def test_every_word_is_one_token_of_clip() -> None:
    """The grammar's words are all in CLIP's vocabulary as they are."""
    assert all(len(tokenize(word)) == 1 for word in words())


def test_tokens_are_those_of_clip() -> None:
    """Known sentences give CLIP's published token numbers, padded with the end mark to 77."""
    row = token_rows(["a photo of a cat"])[0].tolist()
    assert row[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(row) == LENGTH
    assert set(row[7:]) == {49407}
