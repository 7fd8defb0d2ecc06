"""Packs whose nodes have schemas."""

from __future__ import annotations

from collections.abc import Callable

from tests.engine.packs.conftest import Bench, Calls


def test_a_schema_that_cannot_be_read_costs_its_own_node_alone(load: Callable[[str], Bench]) -> None:
    bench = load(
        """
        from comfy_api.latest import ComfyExtension, io

        class Broken(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                return io.Schema(node_id="T_Broken", inputs=[io.NoSuchSocket.Input("a")])

        class Twice(io.ComfyNode):
            @classmethod
            def define_schema(cls):
                return io.Schema(node_id="T_Twice", inputs=[io.Int.Input("a")], outputs=[io.Int.Output()])

            @classmethod
            def execute(cls, a):
                return io.NodeOutput(2 * a)

        class Extension(ComfyExtension):
            async def get_node_list(self):
                return [Broken, Twice]

        async def comfy_entrypoint():
            return Extension()

        NODE_CLASS_MAPPINGS = {"T_Show": Show}
        """
    )
    assert [(failure.node, "NoSuchSocket" in failure.reason) for failure in bench.report.failures] == [("Broken", True)]
    assert bench.shown({"twice": ("T_Twice", {"a": 4}), "show": ("T_Show", {"value": ["twice", 0]})}) == "8"


GROWING = """
from comfy_api.latest import ComfyExtension, io

class Sum(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        numbers = io.Autogrow.TemplatePrefix(input=io.Int.Input("number"), prefix="number", min=2, max=4)
        named = io.Autogrow.TemplateNames(input=io.Int.Input("named"), names=["x", "y"], min=0)
        return io.Schema(
            node_id="T_Sum",
            inputs=[io.Autogrow.Input("numbers", template=numbers), io.Autogrow.Input("named", template=named)],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, numbers, named):
        return io.NodeOutput(f"{numbers} {named}")

class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Sum]

async def comfy_entrypoint():
    return Extension()

NODE_CLASS_MAPPINGS = {"T_Show": Show}
"""


def test_inputs_that_grow_come_as_one_dict(load: Callable[[str], Bench]) -> None:
    inputs = {"numbers.number0": 1, "numbers.number1": 2, "numbers.number3": 4, "named.y": 5}
    calls: Calls = {"sum": ("T_Sum", inputs), "show": ("T_Show", {"value": ["sum", 0]})}
    assert load(GROWING).shown(calls) == repr("{'number0': 1, 'number1': 2, 'number3': 4} {'y': 5}")


def test_the_first_of_inputs_that_grow_have_to_be_there(load: Callable[[str], Bench]) -> None:
    calls: Calls = {"sum": ("T_Sum", {"numbers.number0": 1}), "show": ("T_Show", {"value": ["sum", 0]})}
    problems = load(GROWING).problems(calls)
    assert [(problem.type, problem.input) for problem in problems] == [("required_input_missing", "numbers.number1")]
