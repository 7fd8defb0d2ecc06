"""Who is held to be at work, from what is heard of a run."""

from __future__ import annotations

from engine.graph.graph import NodeId
from engine.jobs.watch import Attention, Watch
from engine.run import events

A, B, C = map(NodeId, "abc")


def _watch() -> Watch:
    return Watch({"Pack": "some_pack"})


def test_a_packs_node_that_waits_for_an_input_is_not_at_work() -> None:
    """It asked for an input, its call is over, and our own node is at work on it: that is who is to blame."""
    watch = _watch()
    watch.begin(A, "Pack", A, 0)
    watch.hear(events.NodeStarted("j", A, A, "Pack"), 1)
    watch.rest(A, 2)
    watch.hear(events.NodeStarted("j", B, B, "KSampler"), 3)
    assert not watch.is_pack_at_work
    failure = watch.verdict("it crashed")
    assert failure is not None
    assert (failure.node, failure.pack) == ("b", None)


def test_of_several_the_last_that_began_is_to_blame() -> None:
    """One that begins again is the newest; a pack's goes before ours."""
    watch = _watch()
    for node in (A, B, A):
        watch.begin(node, "Pack", node, 0)
    watch.hear(events.NodeStarted("j", C, C, "KSampler"), 1)
    failure = watch.verdict("it crashed")
    assert failure is not None
    assert (failure.node, failure.pack) == ("a", "some_pack")


def test_silence_counts_where_it_is_not_ours() -> None:
    """A pack's node, or nobody at all; our own nodes may take as long as they like."""
    watch = _watch()
    assert (watch.is_silent(5, 10), watch.is_silent(11, 10)) == (False, True)
    watch.hear(events.JobStarted("j", 2), 0)
    assert (watch.is_silent(5, 10), watch.is_silent(11, 10)) == (False, True)
    watch.hear(events.NodeStarted("j", A, A, "KSampler"), 12)
    assert not watch.is_silent(100, 10)
    watch.begin(B, "Pack", B, 100)
    assert (watch.is_silent(105, 10), watch.is_silent(111, 10)) == (False, True)
    watch.hear(events.NodeProgress("j", B, B, 1, 2), 112)
    assert not watch.is_silent(115, 10)


def test_nobodys_silence_counts_for_when_nobody_listened() -> None:
    """Who was stopped for a minute begins to wait anew."""
    watch, attention = _watch(), Attention(0)
    watch.begin(A, "Pack", A, 0)
    for now in (0.25, 0.5, 60.0):
        attention.look(now)
    assert not watch.is_silent(60.0, 10, attention.since)
    for tick in range(1, 50):
        attention.look(60 + tick / 4)
    assert watch.is_silent(72.0, 10, attention.since)
