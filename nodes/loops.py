"""Loops: what lies between a LoopStart and its LoopEnd is done again and again, each turn with what the one before it made.

The graph as drawn is the first turn. For the others LoopEnd becomes copies of it, chained through ``carried``. What lies between but
does not depend on LoopStart is not copied: it runs once.

The loop's own nodes are not lasting: their keys change with every item and every count, so what they are followed by is known by the
content it is given. A turn that was computed before is then found again, whatever became of the loop around it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypedDict

from engine.errors import InputError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.run.context import NodeContext
from engine.run.results import Blocked, Expand, Outputs
from engine.spec import Lazy, Output, Range, RawLink, Socket, SocketOnly, node
from nodes.lists import only
from nodes.loop_body import Body, Turn, find_body, loose_ends

MOST: Final = 100_000
"""Turns of a loop whose number is known beforehand."""

_INNER: Final = "flow/loop/inner"
_ENDED: Final = (
    Output("*", "carried", is_list=True),
    Output("*", "collected", is_list=True),
    Output("INT", "count"),
)

LazyValue = Annotated[Any | None, Lazy()]
LoopSocket = Annotated[Any, Socket("LOOP")]
OneInt = Annotated[Any, Socket("INT")]


class Loop(TypedDict):
    """What travels on a LOOP link."""

    items: list[Any] | None
    initial: list[Any]
    turns: int | None
    """None where only ``go_on`` ends it."""


class Chain:
    """What a loop has collected so far: the newest turn's values, and the chain before them."""

    def __init__(self, before: Chain | None, values: list[Any]) -> None:
        self.before = before
        self.values = values
        self.nbytes = sum(_size(value) for value in values)
        """Of this turn's values; those before are counted at the turns they came from."""

    def unwind(self) -> list[Any]:
        """All values, in the order of the turns."""
        turns = [self]
        while turns[-1].before is not None:
            turns.append(turns[-1].before)
        return [value for chain in reversed(turns) for value in chain.values]


def _size(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else [value]
    return sum(size for part in parts if isinstance(size := getattr(part, "nbytes", 0), int))


@node(
    "LoopStart",
    title="Loop Start",
    category="flow/loop",
    outputs=[Output("LOOP", "loop"), Output("*", "item"), Output("INT", "index"), Output("*", "carried", is_list=True)],
    takes_lists=True,
    lasting=False,
)
def loop_start(
    items: Any | None = None,
    count: Annotated[Any, Socket("INT"), Range(-1, MOST)] = -1,
    initial: Any | None = None,
) -> Outputs:
    """Where a loop begins: what depends on it and leads to the Loop End is done once for each item, or count times.

    With items, item is each of them in turn; otherwise it is the number of the turn, as index is, from 0 on. With a count of -1 there
    are as many turns as items, or as many as the Loop End's go_on asks for; with items and a count the smaller number counts.

    carried is initial in the first turn, and in the others what came to the Loop End's carried in the turn before.
    """
    most = only(count, "count")
    if most > MOST:
        raise InputError(f"expected at most {MOST} turns, found {most}; make it fewer", input="count")
    limits = [*([] if items is None else [len(items)]), *([most] if most >= 0 else [])]
    loop = Loop(items=items, initial=initial or [None], turns=min(limits, default=None))
    if loop["turns"] == 0:
        return Outputs((loop, Blocked(), Blocked(), Blocked()))
    return Outputs((loop, 0 if items is None else items[0], 0, loop["initial"]))


@node("LoopEnd", title="Loop End", category="flow/loop", outputs=_ENDED, takes_lists=True, expands=True)
def loop_end(
    ctx: NodeContext,
    loop: LoopSocket,
    carried: LazyValue = None,
    collect: LazyValue = None,
    go_on: Annotated[Any | None, Socket("BOOLEAN"), SocketOnly(), Lazy()] = None,
) -> Outputs | Expand:
    """Where a loop ends: what was carried out of its last turn, what was collected in all of them, and how many there were.

    carried is given to the next turn. With go_on there is another turn only while it is true, and as items and count allow; there is
    always a first one, unless there are no items. A gate that is closed in one turn blocks all that is collected.
    """
    known: Loop = only(loop, "loop")
    if known["turns"] == 0:
        return Outputs((known["initial"], [], 0))
    body = find_body(ctx.graph, ctx.node, has_items=known["items"] is not None)
    ending = body.end.get("go_on")
    if known["turns"] is None and type(ending) is not Link:
        raise InputError(
            "expected an end of the loop; link go_on here, or items or a count at its start", input="go_on"
        )
    _warn_of_loose_ends(ctx, body, known["turns"])
    calls: dict[NodeId, Call] = {}
    turn = body.first(calls)
    if type(ending) is Link:
        calls[NodeId("0")] = _turn_call(body, ctx.node, turn)
        return Expand(Graph(calls), _outputs_of(NodeId("0")))
    shown: dict[NodeId, NodeId] = {}
    for number in range(1, known["turns"] or 1):
        ctx.check_cancelled()
        turn = body.after(turn, str(number), calls)
        shown |= body.shown(ctx.graph, str(number))
    return _finished(turn, calls, shown)


@node("LoopTurn", title="Loop Turn (made by Loop End)", category=_INNER, outputs=_ENDED, takes_lists=True, expands=True)
def loop_turn(
    ctx: NodeContext,
    *,
    loop: LoopSocket,
    end: Annotated[Any, Socket("STRING")],
    turn: OneInt,
    go_on: Annotated[Any, Socket("BOOLEAN")],
    carried: Annotated[Any, RawLink()],
    chain: Annotated[Any | None, Socket("LOOP_CHAIN"), RawLink()] = None,
) -> Expand:
    """The end of one turn of a loop with a condition. The Loop End becomes these; there is no use for one by itself."""
    known: Loop = only(loop, "loop")
    ending = NodeId(only(end, "end"))
    ended = Turn(only(turn, "turn"), only(carried, "carried"), True, None if chain is None else only(chain, "chain"))
    number = ended.number + 1
    calls: dict[NodeId, Call] = {}
    if not only(go_on, "go_on") or number == known["turns"]:
        return _finished(ended, calls, {})
    body = find_body(ctx.graph, ending, has_items=known["items"] is not None)
    # ids of their own, or each turn's would be as long as all before it together
    following = NodeId(f"{ending}.{number}")
    calls[following] = _turn_call(body, ending, body.after(ended, following, calls))
    return Expand(Graph(calls), _outputs_of(following), is_named=True, shown=body.shown(ctx.graph, following))


def _turn_call(body: Body, end: NodeId, turn: Turn) -> Call:
    inputs = {"loop": body.loop, "end": str(end), "turn": turn.number, "go_on": turn.go_on, "carried": turn.carried}
    return Call("LoopTurn", inputs if turn.chain is None else {**inputs, "chain": turn.chain})


def _outputs_of(node: NodeId) -> tuple[Link, ...]:
    return tuple(Link(node, output) for output in range(len(_ENDED)))


def _finished(turn: Turn, calls: dict[NodeId, Call], shown: dict[NodeId, NodeId]) -> Expand:
    """The loop's results after its last turn."""
    collected = NodeId("collected")
    calls[collected] = Call("LoopCollected", {} if turn.chain is None else {"chain": turn.chain})
    return Expand(Graph(calls), (turn.carried, Link(collected, 0), turn.number + 1), shown=shown)


def _warn_of_loose_ends(ctx: NodeContext, body: Body, turns: int | None) -> None:
    if turns == 1 or ctx.graph.parent(ctx.node) is not None:
        return
    loose = loose_ends(ctx.graph, body)
    if loose:
        named = ", ".join(f"{node} ({ctx.graph[node].type})" for node in loose[:5])
        ctx.warn(
            f"what leads to node {named} begins in this loop but does not end in it, so it takes part in the first turn alone; "
            "link it to collect, and save or show what is collected"
        )


@node("LoopItem", title="Loop Item (made by Loop End)", category=_INNER, outputs=[Output("*", "item")], lasting=False)
def loop_item(loop: LoopSocket, turn: int) -> Any:
    """The item of one turn of a loop. The Loop End makes these; there is no use for one by itself."""
    return (loop["items"][turn],)


@node(
    "LoopKeep",
    title="Loop Keep (made by Loop End)",
    category=_INNER,
    outputs=[Output("LOOP_CHAIN", "chain")],
    takes_lists=True,
    lasting=False,
)
def loop_keep(value: Any, chain: Annotated[Any | None, Socket("LOOP_CHAIN")] = None) -> Chain:
    """Keeps what one turn of a loop collects. The Loop End makes these; there is no use for one by itself."""
    return Chain(None if chain is None else only(chain, "chain"), value)


@node(
    "LoopCollected",
    title="Loop Collected (made by Loop End)",
    category=_INNER,
    outputs=[Output("*", "collected", is_list=True)],
    lasting=False,
)
def loop_collected(chain: Annotated[Any | None, Socket("LOOP_CHAIN")] = None) -> list[Any]:
    """What all turns of a loop collected. The Loop End makes these; there is no use for one by itself."""
    return [] if chain is None else chain.unwind()
