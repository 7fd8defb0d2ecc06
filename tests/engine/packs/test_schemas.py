"""Packs whose nodes have schemas."""

from __future__ import annotations

from collections.abc import Callable

from tests.engine.packs.conftest import Bench


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
