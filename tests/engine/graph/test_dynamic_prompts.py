from __future__ import annotations

import random
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.graph.dynamic_prompts import draw_prompt, format_date, sent_graph
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.graph.seeds import SeedInput, next_seeds, randomized
from tests.engine.graph.vocabulary import PROPERTY, registry

REGISTRY = registry()
NOW = datetime(2026, 1, 2, 3, 4, 5)


def drawn(text: str) -> set[str]:
    return {draw_prompt(text, random.Random(seed)) for seed in range(60)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a {red|blue} ball", {"a red ball", "a blue ball"}),
        ("{a|{b|c}}{|!}", {"a", "b", "c", "a!", "b!", "c!"}),
        ("{same}", {"same"}),
        (r"\{a\|b\} (x\)", {"{a|b} (x\\)"}),
        (r"{a\|b|c}", {"a|b", "c"}),
        ("a | b } c", {"a | b } c"}),
        ("{a|b", {"{a|b"}),
        ("a { {b|c}", {"a { b", "a { c"}),
        ("a /* not\nthis */b // nor this\nc", {"a b \nc"}),
    ],
)
def test_choices_are_drawn_and_comments_removed(text: str, expected: set[str]) -> None:
    """Every choice can come, nothing else does; braces without a partner are text."""
    assert drawn(text) == expected


@PROPERTY
@given(st.text("{}|\\ab/*\n", max_size=30), st.integers())
def test_a_seed_always_draws_the_same(text: str, seed: int) -> None:
    """Any text has a result, and one seed has one."""
    assert draw_prompt(text, random.Random(seed)) == draw_prompt(text, random.Random(seed))


def test_deep_nesting_is_no_matter() -> None:
    """Ten thousand braces in each other are drawn through."""
    assert draw_prompt("{" * 10_000 + "x" + "}" * 10_000, random.Random(0)) == "x"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("yyyy-MM-dd", "2026-01-02"), ("yy.M.d", "26.1.2"), ("hhmmss", "030405"), ("h:m:s", "3:4:5"), ("T", "T")],
)
def test_dates_are_written_by_their_letters(pattern: str, expected: str) -> None:
    """Doubled letters are padded, others stay."""
    assert format_date(pattern, NOW) == expected


def test_the_graph_is_sent_as_an_editor_would() -> None:
    """Prompts are drawn, names filled in from drawn texts and titles, and what is no dynamic prompt is left alone."""
    graph = Graph(
        {
            "1": Call("CLIPTextEncode", {"text": "{cat|cat}: /**/yes"}, "Positive"),
            "2": Call("EmptyImage", {"width": 64.0, "height": Link(NodeId("9"), 0)}),
            "3": Call("SaveImage", {"filename_prefix": "%date:yyyyMMdd%/%EmptyImage.width%_%Positive.text%"}),
            "4": Call("SaveImage", {"filename_prefix": "%Size.width%_%EmptyImage.height%_%nobody.x%_%width%_%year%"}),
            "5": Call("Mixed", {"note": "{a|b} %date:d%"}),
        }
    )
    sent = sent_graph(graph, REGISTRY, seed=1, now=NOW, names={NodeId("2"): "Size"})
    assert sent["1"].inputs["text"] == "cat: yes"
    assert sent["3"].inputs["filename_prefix"] == "20260102/%EmptyImage.width%_cat_ yes"
    assert sent["4"].inputs["filename_prefix"] == "64_%EmptyImage.height%_%nobody.x%_%width%_%year%"
    assert sent["5"] == graph["5"]


def test_the_draws_of_one_prompt_do_not_hang_on_another() -> None:
    """Editing one prompt leaves the choices of the others as they were."""
    choices = "{a|b|c|d|e|f|g|h}" * 4
    second = Call("CLIPTextEncode", {"text": choices})
    texts = {
        sent_graph(Graph({"1": Call("CLIPTextEncode", {"text": first}), "2": second}), REGISTRY, seed=3, now=NOW)[
            "2"
        ].inputs["text"]
        for first in ("x", "{y|z}")
    }
    assert len(texts) == 1


def sampler(seed: int) -> Call:
    return Call("KSampler", {"seed": seed})


def test_seeds_change_as_their_controls_say() -> None:
    """Fixed stays, the others step or are drawn; ends of the range hold; inputs of one widget stay equal."""
    graph = Graph({"1": sampler(5), "2": sampler(5), "3": sampler(0), "4": sampler(7), "5": sampler(7)})
    seeds = (
        SeedInput(NodeId("1"), "seed", "fixed", "1.seed"),
        SeedInput(NodeId("2"), "seed", "increment", "2.seed"),
        SeedInput(NodeId("3"), "seed", "decrement", "3.seed"),
        SeedInput(NodeId("4"), "seed", "randomize", "9.value"),
        SeedInput(NodeId("5"), "seed", "randomize", "9.value"),
        SeedInput(NodeId("6"), "seed", "randomize", "gone"),
    )
    after = next_seeds(graph, seeds, REGISTRY, random.Random(0).randrange)
    values = [after[node].inputs["seed"] for node in after]
    assert values[:3] == [5, 6, 0]
    assert values[3] == values[4] == random.Random(0).randrange(2**53)
    every = next_seeds(graph, randomized(seeds), REGISTRY, lambda n: n - 1)
    assert {every[node].inputs["seed"] for node in every} == {2**53 - 1}
