"""Prompts are read as the interoperability contract says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.diffusion.prompts import (
    EmbeddingName,
    Segment,
    Weighted,
    chunks,
    groups,
    parse,
    split_embeddings,
)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", []),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(a (b:0.5) c:2)", [("a ", 2.0), ("b", 0.5), (" c", 2.0)]),
        ("((b:0.5) c)", [("b", 0.5), (" c", 1.1)]),
        ("((b) c:2)", [("b", 2.2), (" c", 2.0)]),
        (r"a \(b\) (c\):1.2)", [("a (b) ", 1.0), ("c)", 1.2)]),
        ("(at 12:30 o'clock)", [("at 12:30 o'clock", 1.1)]),
        ("(at 12:30)", [("at 12", 30.0)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        ("(a:)", [("a:", 1.1)]),
        ("(a:inf)", [("a:inf", 1.1)]),
        ("(a:nan)", [("a:nan", 1.1)]),
        ("(a:-1)", [("a", -1.0)]),
        ("a (open (b) c", [("a ", 1.0), ("(open (b) c", 1.0)]),
        ("(unclosed (b:1.2)", [("unclosed ", 1.2), ("(b", 1.2)]),
        (r"(unclosed b\)", [("(unclosed b)", 1.0)]),
        ("closed) (b:1.2)", [("closed) (b:1.2)", 1.0)]),
        (":) (a (b) c) (d)", [(":) (a ", 1.0), ("b", 1.1), (" c) (d)", 1.0)]),
        ("[a|b] BREAK c", [("[a|b] BREAK c", 1.0)]),
        ("()", []),
        ("back\\slash", [("back\\slash", 1.0)]),
    ],
)
def test_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    """Parentheses multiply, a number sets, an escape is text, and nothing else means anything.

    A lone parenthesis is text that takes the next one along; a group that is never closed is one if it ends in a parenthesis.
    """
    assert parse(prompt) == [Segment(text, pytest.approx(weight)) for text, weight in expected]  # type: ignore[arg-type]


def test_deep_nesting_is_read() -> None:
    """A prompt may nest deeper than Python's calls may."""
    assert parse("(" * 5000 + "x:2" + ")" * 5000) == [Segment("x", 2.0)]
    assert parse("(" * 5000) == [Segment("(" * 5000, 1.0)]


@given(st.text(alphabet="ab (:1.)\\", max_size=40))
def test_no_text_is_lost(prompt: str) -> None:
    """Whatever is typed, every letter of it is in some segment, in its order."""
    kept = "".join(segment.text for segment in parse(prompt))
    assert [sign for sign in kept if sign in "ab"] == [sign for sign in prompt if sign in "ab"]
    assert all(segment.text for segment in parse(prompt))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedding:a", [EmbeddingName("a")]),
        ("x embedding:a, y", ["x ", EmbeddingName("a,"), " y"]),
        ("x\nembedding:a/b.pt embedding:c", ["x\n", EmbeddingName("a/b.pt"), EmbeddingName("c")]),
        ("xembedding:a", ["xembedding:a"]),
        ("embedding: a b", [EmbeddingName("a"), " b"]),
        ("x embedding:", ["x embedding:"]),
    ],
)
def test_embeddings_are_named_after_white_space(text: str, expected: list[str | EmbeddingName]) -> None:
    """An embedding is named at the start of a segment or after white space, and nowhere else."""
    assert split_embeddings(text) == expected


def test_groups_put_a_comma_back() -> None:
    """What was no part of an embedding's name is read as text, as one with what follows, with the segment's weight."""
    found = groups("(x embedding:a, y:2)", str.split, lambda name: (["V"], ","))
    assert [[(token.item, token.weight) for token in group] for group in found] == [
        [("x", 2.0)],
        [("V", 2.0)],
        [(",", 2.0), ("y", 2.0)],
    ]


def test_short_group_moves_and_long_group_is_torn() -> None:
    """Seven tokens that do not fit begin the next chunk together; eight are torn."""
    seven, eight = ["s"] * 7, ["e"] * 8
    assert [len(chunk) for chunk in chunks([["a"] * 70, seven])] == [70, 7]
    assert [len(chunk) for chunk in chunks([["a"] * 70, eight])] == [75, 3]
    assert [len(chunk) for chunk in chunks([["a"] * 68, seven])] == [75]
    assert [len(chunk) for chunk in chunks([["a"] * 75, eight])] == [75, 8]


def test_empty_prompt_is_one_chunk() -> None:
    """No tokens at all still make one chunk."""
    assert chunks([]) == [[]]


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(2, 12))
def test_chunks_keep_all_tokens_in_order(sizes: list[int], size: int) -> None:
    """Every token of every group is laid once, in order, in chunks of at most the given size."""
    numbers = iter(range(1000))
    laid = chunks([[next(numbers) for _ in range(count)] for count in sizes], size)
    assert [token for chunk in laid for token in chunk] == list(range(sum(sizes)))
    assert all(len(chunk) <= size for chunk in laid)


def test_weighted_tokens_are_plain_data() -> None:
    """Two tokens are the same when item and weight are."""
    assert Weighted("a", 1.0) == Weighted("a", 1.0) != Weighted("a", 1.1)
