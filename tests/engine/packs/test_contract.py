"""Node classes as packs write them, read and called."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import pytest

from engine.compat.comfy_execution.graph_utils import GraphBuilder
from engine.errors import DefinitionError
from engine.graph.graph import Call, Graph, Link, NodeId
from engine.graph.validate import validate
from engine.packs.contract import Instances
from engine.registry import Registry
from engine.run.cache import OutputCache
from engine.run.disk_tier import DiskTier
from engine.run.request import Run
from engine.spec import Output
from tests.engine.packs.classes import PACK, Base, executor_of, run_of, spec_of, value_of
from tests.engine.run.toolbox import graph

# what is read of a class


def test_what_a_plain_class_declares() -> None:
    """The type's version is the pack's digest; any class may expand; its results are for memory alone."""
    spec = spec_of(Base, title="A title")
    assert (spec.type, spec.title, spec.category, spec.pack, spec.version) == (
        "Base", "A title", "test", "some_pack", PACK.digest
    )  # fmt: skip
    assert (spec.pure, spec.lasting, spec.by_id, spec.expands, spec.takes_context) == (True, False, False, True, True)
    assert (spec.output_node, spec.takes_lists, spec.takes_extra, spec.is_async) == (False, False, False, False)
    assert (spec.fingerprint, spec.check, spec.judges, spec.judges_types) == (None, None, frozenset(), False)
    assert spec.module == "custom_nodes.some_pack"


@pytest.mark.parametrize(
    ("attributes", "field", "value"),
    [
        ({"OUTPUT_NODE": True}, "output_node", True),
        ({"INPUT_IS_LIST": True}, "takes_lists", True),
        ({"MEZZOTINT_PURE": True}, "lasting", True),
        ({"NOT_IDEMPOTENT": True}, "by_id", True),
        ({"DEPRECATED": True}, "deprecated", True),
        ({"EXPERIMENTAL": True}, "experimental", True),
        ({"DESCRIPTION": "  Two\n  lines"}, "description", "Two\nlines"),
        ({"CATEGORY": "a/b"}, "category", "a/b"),
        ({"RETURN_TYPES": ()}, "outputs", ()),
        ({"RETURN_TYPES": None}, "outputs", ()),
        (
            {"RETURN_TYPES": ("IMAGE", ["a", "b"], "*"), "RETURN_NAMES": ("picture",), "OUTPUT_IS_LIST": (False, True)},
            "outputs",
            (Output("IMAGE", "picture"), Output("COMBO", is_list=True), Output("*")),
        ),
        ({"OUTPUT_TOOLTIPS": ("what it is",)}, "outputs", (Output("INT", tooltip="what it is"),)),
    ],
)
def test_attributes_of_a_class(attributes: dict[str, Any], field: str, value: Any) -> None:
    """Each says one thing; lists of names that are too short are filled up."""
    assert getattr(spec_of(type("Some", (Base,), attributes)), field) == value
    assert getattr(spec_of(Base), field) != value


@pytest.mark.parametrize("name", [None, "nothing", "RETURN_TYPES"])
def test_a_function_that_is_none_is_refused(name: Any) -> None:
    """The message says what FUNCTION is."""
    with pytest.raises(DefinitionError, match=f"FUNCTION is {name!r}, which is no method of the class"):
        spec_of(type("Some", (Base,), {"FUNCTION": name}))


# calls


class Counting(Base):
    """Keeps a count in ``self``."""

    def __init__(self) -> None:
        self.count = 0

    def go(self, value: Any) -> Any:
        self.count += 1
        return (self.count,)


def test_each_node_has_an_object_of_its_own_that_it_keeps(tmp_path: Path) -> None:
    """What is in ``self`` is there at the next run, and not the other node's."""
    two = graph(x=("Counting", {"value": 1}), y=("Counting", {"value": 2}))
    with executor_of(tmp_path, Counting) as executor:
        counts = [run_of(executor, two, "x", "y", use_cache=False).values for _ in range(3)]
    assert counts == [{"x": ((count,),), "y": ((count,),)} for count in (1, 2, 3)]


def test_objects_not_used_for_longest_go() -> None:
    """A thousand are kept."""
    instances = Instances()
    first, second = instances.of("0", Counting), instances.of("1", Counting)
    for number in range(2, 1000):
        instances.of(str(number), Counting)
    assert instances.of("0", Counting) is first
    instances.of("1000", Counting)
    assert instances.of("0", Counting) is first
    assert instances.of("1", Counting) is not second
    assert type(instances.of("0", Base)) is Base


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_is_called_with_what_it_is_given(is_async: bool, tmp_path: Path) -> None:
    """Sync or async; an input that is left out is not passed, so that the function's own default counts."""

    class Sync(Base):
        @classmethod
        def INPUT_TYPES(cls) -> Any:  # noqa: N802
            return {"required": {"a": ("INT",)}, "optional": {"b": ("INT", {"default": 5})}}

        def go(self, a: int, b: int = 100) -> Any:
            return (a + b,)

    class Async(Sync):
        async def go(self, a: int, b: int = 100) -> Any:
            await asyncio.sleep(0)
            return (a + b,)

    assert value_of(tmp_path, Async if is_async else Sync, a=1) == (101,)
    assert value_of(tmp_path, Async if is_async else Sync, a=1, b=2) == (3,)
    assert spec_of(Async).is_async
    assert not spec_of(Sync).is_async


def test_a_function_with_keywords_gets_inputs_nobody_declared(tmp_path: Path) -> None:
    """What comes over links; values only where the declaration has every name. Others get neither."""

    class Keywords(Base):
        def go(self, value: Any, **more: Any) -> Any:
            return (len(more),)

    class Anything(dict[str, Any]):
        def __contains__(self, name: object) -> bool:
            return True

    class Flexible(Keywords):
        @classmethod
        def INPUT_TYPES(cls) -> Any:  # noqa: N802
            return {"required": {"value": ("INT",)}, "optional": Anything()}

    assert value_of(tmp_path, Keywords, value=1, x=2, y=3) == (0,)
    with executor_of(tmp_path, Keywords) as executor:
        calls = {
            "c": Call("Const", {"value": 1}),
            "n": Call("Keywords", {"value": 1, "x": 2, "y": Link(NodeId("c"), 0)}),
        }
        assert run_of(executor, Graph(calls), "n").values[NodeId("n")] == ((1,),)
    assert value_of(tmp_path, Flexible, value=1, x=2, y=3) == (2,)
    assert value_of(tmp_path, Base, value=1, x=2) == (1,)


def test_lists_are_passed_whole_to_who_takes_them(tmp_path: Path) -> None:
    """Single values as lists of one, hidden ones too."""

    class Lists(Base):
        INPUT_IS_LIST = True

        @classmethod
        def INPUT_TYPES(cls) -> Any:  # noqa: N802
            return {"required": {"value": ("INT",), "n": ("INT",)}, "hidden": {"id": "UNIQUE_ID", "prompt": "PROMPT"}}

        RETURN_TYPES = ("STRING",)

        def go(self, value: Any, n: Any, id: Any, prompt: Any) -> Any:
            return (repr((value, n, id, prompt)),)

    run = Graph({"a": Call("Spread", {"count": 3}), "n": Call("Lists", {"value": Link(NodeId("a"), 0), "n": 7})})
    with executor_of(tmp_path, Lists) as executor:
        assert run_of(executor, run, "n", metadata={"prompt": {}}).values == {
            "n": (("([0, 1, 2], [7], ['n'], [{}])",),)
        }


@pytest.mark.parametrize("is_async", [False, True])
def test_lazy_inputs_come_when_the_class_asks_for_them(is_async: bool, tmp_path: Path) -> None:
    """Whether what it says has to be awaited or not, and whichever kind of function it has."""

    class Picks(Base):
        @classmethod
        def INPUT_TYPES(cls) -> Any:  # noqa: N802
            lazy = ("INT", {"lazy": True})
            return {"required": {"first": ("BOOLEAN",), "a": lazy, "b": lazy}}

        def check_lazy_status(self, first: bool, a: Any = None, b: Any = None) -> Any:
            return ["a"] if first and a is None else ["b"] if not first and b is None else []

        def go(self, first: bool, a: Any = None, b: Any = None) -> Any:
            return (a if first else b,)

    class PicksLater(Picks):
        async def check_lazy_status(self, first: bool, a: Any = None, b: Any = None) -> Any:
            await asyncio.sleep(0)
            return Picks.check_lazy_status(self, first, a, b)

        async def go(self, first: bool, a: Any = None, b: Any = None) -> Any:
            return (a if first else b,)

    class PicksMixed(PicksLater):
        def go(self, first: bool, a: Any = None, b: Any = None) -> Any:
            return (a if first else b,)

    for cls in (PicksLater, PicksMixed) if is_async else (Picks,):
        with executor_of(tmp_path, cls) as executor:
            for first, value in ((True, 1), (False, 2)):
                inputs = {"first": first, "a": "x/0", "b": "y/0"}
                run = graph(x=("Const", {"value": 1}), y=("Const", {"value": 2}), n=(cls.__name__, inputs))
                result = run_of(executor, run, "n", use_cache=False)
                assert result.values == {"n": ((value,),)}
                assert set(result.ran) == {"x" if first else "y", "n"}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned nothing; expected 1 output: does its function end in a return?"),
        (("text",), "output INT is declared INT; expected a whole number, found a str"),
    ],
)
def test_what_a_class_returns_wrongly_names_its_node_and_pack(returned: Any, message: str, tmp_path: Path) -> None:
    """In one line."""

    class Wrong(Base):
        def go(self, value: Any) -> Any:
            return returned

    assert value_of(tmp_path, Wrong, value=0) == f"node n (Wrong of pack some_pack): {message}"


def test_none_is_a_value_like_another(tmp_path: Path) -> None:
    """Alone in its tuple, from a class with one output."""

    class Nothing(Base):
        def go(self, value: Any) -> Any:
            return (None,)

    assert value_of(tmp_path, Nothing, value=0) == (None,)


# hidden inputs


def test_each_hidden_input_is_what_it_says(tmp_path: Path) -> None:
    """The node's id, what the files of the run carry, the workflow; of what there is none here, None."""
    seen: dict[str, Any] = {}

    class Asks(Base):
        @classmethod
        def INPUT_TYPES(cls) -> Any:  # noqa: N802
            hidden = {
                "id": "UNIQUE_ID", "prompt": "PROMPT", "extra": "EXTRA_PNGINFO", "dyn": "DYNPROMPT",
                "token": "AUTH_TOKEN_COMFY_ORG", "key": "API_KEY_COMFY_ORG",
            }  # fmt: skip
            return {"required": {}, "hidden": hidden}

        def go(self, **hidden: Any) -> Any:
            seen.update(hidden)
            return (1,)

    prompt = {"7": {"class_type": "Asks", "inputs": {}}}
    with executor_of(tmp_path, Asks) as executor:
        run = Graph({"7": Call("Asks")})
        run_of(executor, run, "7", metadata={"prompt": prompt, "workflow": {"nodes": []}})
        dynamic = seen.pop("dyn")
        assert seen == {"id": "7", "prompt": prompt, "extra": {"workflow": {"nodes": []}}, "token": None, "key": None}
        assert dynamic.get_original_prompt() == prompt
        run_of(executor, run, "7", use_cache=False)
        assert (seen["prompt"], seen["extra"]) == (prompt, None)
        assert seen["dyn"].get_original_prompt() == prompt


def test_a_class_may_look_at_the_workflow_as_it_stands(tmp_path: Path) -> None:
    """Nodes in API format, those made by expansions too, with their parents, the real node and the one they are shown as."""
    seen: dict[str, Any] = {}

    class Inner(Base):
        @classmethod
        def INPUT_TYPES(cls) -> Any:  # noqa: N802
            return {"required": {"value": ("INT",)}, "hidden": {"dyn": "DYNPROMPT", "id": "UNIQUE_ID"}}

        def go(self, value: Any, dyn: Any, id: str) -> Any:
            seen.update(
                node=dyn.get_node(id),
                parent=dyn.get_parent_node_id(id),
                real=dyn.get_real_node_id(id),
                display=dyn.get_display_node_id(id),
                all=dyn.all_node_ids(),
                has=(dyn.has_node(id), dyn.has_node("nobody")),
                top=dyn.get_parent_node_id("o"),
            )
            with pytest.raises(KeyError):
                dyn.get_node("nobody")
            return (value,)

    class Outer(Base):
        def go(self, value: Any) -> Any:
            builder = GraphBuilder()
            inner = builder.node("Inner", value=value)
            inner.set_override_display_id("c")
            return {"result": (inner.out(0),), "expand": builder.finalize()}

    run = graph(c=("Const", {"value": 4}), o=("Outer", {"value": "c/0"}))
    with executor_of(tmp_path, Inner, Outer) as executor:
        assert run_of(executor, run, "o").values == {"o": ((4,),)}
    assert seen == {
        "node": {"class_type": "Inner", "inputs": {"value": 4}},
        "parent": "o",
        "real": "o",
        "display": "c",
        "all": {"c", "o", "o.0.0.1"},
        "has": (True, False),
        "top": None,
    }


def test_a_class_that_asks_for_its_id_shares_no_result(tmp_path: Path) -> None:
    """Two equal nodes both run."""

    class Named(Base):
        @classmethod
        def INPUT_TYPES(cls) -> Any:  # noqa: N802
            return {"required": {}, "hidden": {"id": "UNIQUE_ID"}}

        RETURN_TYPES = ("STRING",)

        def go(self, id: str) -> Any:
            return (id,)

    assert spec_of(Named).by_id
    with executor_of(tmp_path, Named) as executor:
        assert run_of(executor, graph(x=("Named", {}), y=("Named", {})), "x", "y").values == {
            "x": (("x",),),
            "y": (("y",),),
        }


# what is known again


@pytest.mark.parametrize("is_pure", [False, True])
def test_a_class_may_say_that_its_results_last(is_pure: bool, tmp_path: Path) -> None:
    """Without a word its results are for this process alone; either way they are known within it."""
    log: list[int] = []

    class Slow(Base):
        MEZZOTINT_PURE = is_pure

        def go(self, value: Any) -> Any:
            log.append(value)
            time.sleep(0.06)
            return (value,)

    run = graph(n=("Slow", {"value": 1}), s=("Later", {"value": "n/0"}))
    for _ in range(2):
        codecs = Registry().codecs
        cache = OutputCache(disk=DiskTier(tmp_path / "cache", codecs))
        with executor_of(tmp_path, Slow, cache=cache) as executor:
            for _ in range(2):
                assert run_of(executor, run, "n").values == {"n": ((1,),)}
    assert log == ([1] if is_pure else [1, 1])


class Changing(Base):
    """Says what it depends on beside its inputs."""

    state: Any = 0
    asked: list[dict[str, Any]] = []  # noqa: RUF012

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"value": ("INT",), "other": ("INT",)}, "hidden": {"id": "UNIQUE_ID"}}

    def go(self, value: Any, other: Any, id: str) -> Any:
        return (value,)


def _times_run(tmp_path: Path, cls: Any, states: list[Any]) -> int:
    """How often the node ran over as many runs as there are states."""
    ran = 0
    with executor_of(tmp_path, cls) as executor:
        for state in states:
            cls.state = state
            run = graph(c=("Const", {"value": 4}), n=(cls.__name__, {"value": "c/0", "other": 2}))
            ran += "n" in run_of(executor, run, "n").ran
    return ran


def test_is_changed_decides_whether_a_node_runs_again(tmp_path: Path) -> None:
    """Equal values find the result, others and NaN do not; what it raises counts as a change."""

    class Plain(Changing):
        @classmethod
        def IS_CHANGED(cls, **inputs: Any) -> Any:  # noqa: N802
            if isinstance(cls.state, Exception):
                raise cls.state
            return cls.state

    assert _times_run(tmp_path, Plain, ["a", "a", "b", "a"]) == 2
    assert _times_run(tmp_path, Plain, [math.nan] * 3) == 3
    assert _times_run(tmp_path, Plain, [ValueError("who knows")] * 3) == 3
    assert _times_run(tmp_path, Plain, [object()] * 3) == 3
    assert _times_run(tmp_path, Plain, [[1, {"a": None}]] * 3) == 1
    assert _times_run(tmp_path, Changing, ["a", "b"]) == 1


def test_is_changed_is_called_with_the_inputs_it_takes(tmp_path: Path) -> None:
    """A link is None to it; one without parameters is called without any; async ones are awaited."""
    asked: list[Any] = []

    class One(Changing):
        @classmethod
        def IS_CHANGED(cls, value: Any) -> Any:  # noqa: N802
            asked.append(value)

    class All(Changing):
        @classmethod
        def IS_CHANGED(cls, **inputs: Any) -> Any:  # noqa: N802
            asked.append(inputs)

    class Nothing(Changing):
        @classmethod
        def IS_CHANGED(cls) -> Any:  # noqa: N802
            asked.append("nothing")

    class Static(Changing):
        @staticmethod
        def IS_CHANGED(other: Any) -> Any:  # noqa: N802
            asked.append(("static", other))

    class Async(Changing):
        @classmethod
        async def IS_CHANGED(cls, other: Any) -> Any:  # noqa: N802
            await asyncio.sleep(0)
            asked.append(("async", other))
            return cls.state

    for cls in (One, All, Nothing, Static):
        assert _times_run(tmp_path, cls, [1]) == 1
    assert _times_run(tmp_path, Async, ["a", "a", "b"]) == 2
    assert asked == [None, {"value": None, "other": 2, "id": "n"}, "nothing", ("static", 2), *[("async", 2)] * 3]


def test_a_fingerprint_may_be_awaited_where_a_loop_is_running() -> None:
    """It is asked on a thread of its own, and its error comes back."""

    class Async(Base):
        @classmethod
        async def VALIDATE_INPUTS(cls, value: Any) -> Any:  # noqa: N802
            await asyncio.sleep(0)
            if value < 0:
                raise ValueError("negative")
            return True if value else "zero"

    async def ask(value: int) -> Any:
        check = spec_of(Async).check
        assert check is not None
        return check(value=value)

    assert asyncio.run(ask(1)) is None
    assert asyncio.run(ask(0)) == "zero"
    with pytest.raises(ValueError, match="negative"):
        asyncio.run(ask(-1))


# checks


def _problems(cls: Any, **inputs: Any) -> list[str]:
    registry = Registry([spec_of(cls), spec_of(Base), spec_of(type("Float", (Base,), {"RETURN_TYPES": ("FLOAT",)}))])
    run = Graph({"i": Call("Base", {"value": 1}), "f": Call("Float", {"value": 1}), "n": Call(cls.__name__, inputs)})
    return [f"{problem.type}: {problem.message}" for problem in validate(run, registry) if problem.node == "n"]


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (True, None),
        (None, None),
        (False, "the node's own check says that its inputs are not valid"),
        ("too large", "too large"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_class_may_check_its_inputs(verdict: Any, told: str | None, is_async: bool) -> None:
    """True and None are fine, a text says what is wrong, False only that something is."""

    class Sync(Base):
        @classmethod
        def VALIDATE_INPUTS(cls, value: Any) -> Any:  # noqa: N802
            return verdict

    class Async(Base):
        @classmethod
        async def VALIDATE_INPUTS(cls, value: Any) -> Any:  # noqa: N802
            await asyncio.sleep(0)
            return verdict

    found = _problems(Async if is_async else Sync, value=1)
    assert len(found) == (told is not None)
    assert told is None or (found[0].startswith("custom_validation_failed") and found[0].endswith(told))


def test_a_check_that_raises_is_a_problem_of_its_node() -> None:
    """It says what was raised."""

    class Raises(Base):
        @classmethod
        def VALIDATE_INPUTS(cls, value: Any) -> Any:  # noqa: N802
            raise KeyError("checks are hard")

    (found,) = _problems(Raises, value=1)
    assert "exception_during_validation" in found
    assert "KeyError: 'checks are hard'" in found
    assert "of pack some_pack" in found


class Judging(Base):
    """A choice and a number with a range."""

    @classmethod
    def INPUT_TYPES(cls) -> Any:  # noqa: N802
        return {"required": {"value": ("INT", {"max": 5}), "name": (["a", "b"],)}}


def test_inputs_that_a_check_names_are_for_it_to_judge() -> None:
    """Neither the range nor the choices count for them; for the others they do."""

    class Some(Judging):
        @classmethod
        def VALIDATE_INPUTS(cls, name: Any) -> Any:  # noqa: N802
            return True

    class All(Judging):
        @classmethod
        def VALIDATE_INPUTS(cls, **inputs: Any) -> Any:  # noqa: N802
            return True

    def kinds(cls: Any) -> list[str]:
        return [found.partition(":")[0] for found in _problems(cls, value=9, name="c")]

    assert kinds(Judging) == ["value_bigger_than_max", "value_not_in_list"]
    assert kinds(Some) == ["value_bigger_than_max"]
    assert kinds(All) == []
    assert spec_of(Some).judges == {"name"}
    assert spec_of(All).judges == {"value", "name"}


def test_a_check_may_judge_the_types_of_links() -> None:
    """It is told them by input, and the engine leaves them to it; without it a wrong type is a problem."""
    told: list[Any] = []

    class Typed(Base):
        @classmethod
        def VALIDATE_INPUTS(cls, input_types: Any) -> Any:  # noqa: N802
            told.append(input_types)
            return True if input_types == {"value": "FLOAT"} else "not that"

    assert (spec_of(Typed).judges, spec_of(Typed).judges_types) == (frozenset(), True)
    assert _problems(Typed, value=Link(NodeId("f"), 0)) == []
    (found,) = _problems(Typed, value=Link(NodeId("i"), 0))
    assert found.endswith("not that")
    assert told == [{"value": "FLOAT"}, {"value": "INT"}]
    (found,) = _problems(type("Untyped", (Base,), {}), value=Link(NodeId("f"), 0))
    assert found.startswith("return_type_mismatch")


def test_an_output_node_is_a_target(tmp_path: Path) -> None:
    """A run without targets runs it and shows its ui."""

    class Shows(Base):
        OUTPUT_NODE = True
        RETURN_TYPES = ()

        def go(self, value: Any) -> Any:
            return {"ui": {"text": [str(value)]}}

    with executor_of(tmp_path, Shows) as executor:
        result = executor.run_sync(Run(graph(n=("Shows", {"value": 3}))))
    assert result.ui == {"n": {"text": ["3"]}}
