"""Choices that are made when somebody looks."""

from __future__ import annotations

from typing import Annotated

from engine.graph.graph import Call, Graph
from engine.graph.object_info import object_info
from engine.graph.validate import validate
from engine.registry import Registry
from engine.spec import Choices, Output, node

NAMES: list[str] = []


def test_a_choice_counts_as_it_is_at_the_moment() -> None:
    """What is offered, what is the first, and what is refused follow the list."""
    NAMES[:] = ["old"]

    @node("Pick", category="test", outputs=[Output("STRING")], output_node=True)
    def pick(name: Annotated[str, Choices(lambda: NAMES)]) -> str:
        return name

    run = Graph({"1": Call("Pick", {"name": "new"})})
    (problem,) = validate(run, Registry([pick]))
    assert problem.type == "value_not_in_list"
    assert problem.expected == "one of old"
    NAMES[:] = ["new", "newer"]
    assert validate(run, Registry([pick])) == []
    assert object_info(pick)["input"]["required"]["name"] == [["new", "newer"]]
