import asyncio

import torch
from typing_extensions import override

from comfy_api.latest import ComfyExtension, io, ui


class Stripes(io.ComfyNode):
    """Horizontal stripes; a schema instead of class attributes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ST_Stripes",
            display_name="Stripes",
            category="schema tools",
            inputs=[
                io.Int.Input("size", default=16, min=1, max=1024),
                io.Float.Input("level", default=0.5, min=0.0, max=1.0, step=0.01, optional=True),
                io.Combo.Input("tone", options=["light", "dark"], default="light"),
            ],
            outputs=[io.Image.Output("stripes"), io.String.Output(display_name="about")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, size):
        return True if size % 2 == 0 else f"size {size} is odd; stripes come in pairs"

    @classmethod
    def execute(cls, size, tone, level=0.5) -> io.NodeOutput:
        image = torch.zeros(1, size, size, 3)
        image[:, ::2] = level if tone == "light" else 0.1
        return io.NodeOutput(image, f"{tone} stripes by node {cls.hidden.unique_id}")


class Slow(io.ComfyNode):
    """Waits without being in anybody's way."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ST_Slow",
            category="schema tools",
            inputs=[io.AnyType.Input("value"), io.Float.Input("seconds", default=0.1, min=0.0, max=10.0)],
            outputs=[io.AnyType.Output()],
        )

    @classmethod
    async def execute(cls, value, seconds) -> io.NodeOutput:
        await asyncio.sleep(seconds)
        return io.NodeOutput(value)


class Show(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ST_Show",
            category="schema tools",
            inputs=[io.AnyType.Input("value")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, value) -> io.NodeOutput:
        return io.NodeOutput(ui=ui.PreviewText(str(value)))


class Pick(io.ComfyNode):
    """Asks for the side it needs."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ST_Pick",
            category="schema tools",
            inputs=[
                io.Boolean.Input("left", default=True),
                io.AnyType.Input("a", lazy=True),
                io.AnyType.Input("b", lazy=True),
            ],
            outputs=[io.AnyType.Output("picked")],
        )

    @classmethod
    def check_lazy_status(cls, left, a=None, b=None):
        return ["a" if left else "b"]

    @classmethod
    def execute(cls, left, a=None, b=None) -> io.NodeOutput:
        return io.NodeOutput(a if left else b)


class Stop(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ST_Stop",
            category="schema tools",
            inputs=[io.AnyType.Input("value")],
            outputs=[io.AnyType.Output()],
        )

    @classmethod
    def execute(cls, value) -> io.NodeOutput:
        return io.NodeOutput(block_execution="closed for today")


class SchemaTools(ComfyExtension):
    @override
    async def get_node_list(self):
        return [Stripes, Slow, Show, Pick, Stop]


async def comfy_entrypoint():
    return SchemaTools()
