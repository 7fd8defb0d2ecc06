"""Node classes with a schema, and the face of an older class that they have."""

from __future__ import annotations

import enum
import importlib
import inspect
import io as streams
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.compat.comfy_execution.graph_utils import ExecutionBlocker
from engine.compat.host import calling
from engine.compat.missing import NotProvidedError
from engine.errors import Cancelled
from tests.compat.conftest import Watched

latest: Any = importlib.import_module("engine.compat.comfy_api.latest")
io: Any = latest.io
ui: Any = latest.ui


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


class Mixed(io.ComfyNode):  # type: ignore[misc]
    """A node with a bit of everything."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="Mixed",
            display_name="Mixed up",
            category="test/mixed",
            description="Mixes.",
            inputs=[
                io.Image.Input("image", tooltip="A picture"),
                io.Int.Input("count", default=3, min=0, max=2**64 - 1, control_after_generate=True),
                io.Float.Input(
                    "amount", default=0.5, step=0.1, round=0.01, display_mode=io.NumberDisplay.slider, lazy=True
                ),
                io.String.Input("text", multiline=True, optional=True),
                io.Boolean.Input("flag", default=False, label_on="yes"),
                io.Combo.Input("mode", options=Mode, default=Mode.SLOW),
                io.Combo.Input(
                    "file", options=["a.png"], upload=io.UploadType.image, image_folder=io.FolderType.output
                ),
                io.MultiCombo.Input("several", options=["x", "y"], placeholder="choose"),
                io.MultiType.Input("any_of", types=[io.Mask, io.Latent], optional=True),
                io.Custom("THING").Input("thing", raw_link=True),
                io.AnyType.Input("anything", optional=True),
            ],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="What came out"),
                io.Int.Output("counts", is_output_list=True),
                io.Custom("THING").Output(),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            is_experimental=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, image: Any, count: int, **rest: Any) -> Any:
        return io.NodeOutput(image, [count], (cls.hidden.unique_id, cls.hidden.prompt, sorted(rest)))


def test_the_inputs_are_those_of_the_schema() -> None:
    assert Mixed.INPUT_TYPES() == {
        "required": {
            "image": ("IMAGE", {"tooltip": "A picture"}),
            "count": ("INT", {"default": 3, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
            "amount": ("FLOAT", {"default": 0.5, "step": 0.1, "round": 0.01, "display": "slider", "lazy": True}),
            "flag": ("BOOLEAN", {"default": False, "label_on": "yes"}),
            "mode": ("COMBO", {"default": "slow", "options": ["fast", "slow"]}),
            "file": ("COMBO", {"options": ["a.png"], "image_upload": True, "image_folder": "output"}),
            "several": (
                "COMBO",
                {"options": ["x", "y"], "multiselect": True, "multi_select": {"placeholder": "choose"}},
            ),
            "thing": ("THING", {"rawLink": True}),
        },
        "optional": {
            "text": ("STRING", {"multiline": True}),
            "any_of": ("MASK,LATENT", {}),
            "anything": ("*", {}),
        },
        "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
    }


def test_the_rest_is_as_older_classes_have_it() -> None:
    assert (Mixed.RETURN_TYPES, Mixed.RETURN_NAMES) == (("IMAGE", "INT", "THING"), ("picture", "counts", "THING"))
    assert Mixed.OUTPUT_IS_LIST == (False, True, False)
    assert Mixed.OUTPUT_TOOLTIPS == ("What came out", None, None)
    assert (Mixed.CATEGORY, Mixed.DESCRIPTION, Mixed.OUTPUT_NODE, Mixed.INPUT_IS_LIST) == (
        "test/mixed",
        "Mixes.",
        True,
        False,
    )
    assert (Mixed.DEPRECATED, Mixed.EXPERIMENTAL, Mixed.NOT_IDEMPOTENT) == (False, True, True)
    assert [hasattr(Mixed, name) for name in ("IS_CHANGED", "VALIDATE_INPUTS", "check_lazy_status")] == [False] * 3


def test_a_call_gets_its_hidden_inputs_on_the_class_of_the_call() -> None:
    call = getattr(Mixed(), Mixed.FUNCTION)
    found = call(image="i", count=2, unique_id="7", prompt={"7": {}}, extra_pnginfo=None, mode="fast")
    assert found == ("i", [2], ("7", {"7": {}}, ["mode"]))
    assert Mixed.hidden.unique_id is None
    assert call(image="i", count=2, not_declared=5)[2] == (None, None, [])


class Judging(io.ComfyNode):  # type: ignore[misc]
    """A node with the three further methods, that is async."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            "Judging", inputs=[io.Int.Input("a", lazy=True)], outputs=[io.Int.Output()], hidden=[io.Hidden.prompt]
        )

    @classmethod
    def validate_inputs(cls, a: int, input_types: Any) -> Any:
        return a > 0 or "too small"

    @classmethod
    def fingerprint_inputs(cls, a: int) -> Any:
        return (a, cls.hidden.prompt)

    @classmethod
    def check_lazy_status(cls, a: int | None) -> list[str]:
        return ["a"] if a is None else []

    @classmethod
    async def execute(cls, a: int) -> Any:
        return io.NodeOutput(a + 1, ui={"text": [str(a)]}, expand={"1": {}})


class JudgingMore(Judging):
    """A class below it, which asks for what the one above does."""

    @classmethod
    def check_lazy_status(cls, a: int | None) -> list[str]:
        return [*super().check_lazy_status(a=a), "more"]


async def test_further_methods_are_there_under_their_older_names() -> None:
    face: Any = Judging
    assert list(inspect.signature(face.VALIDATE_INPUTS).parameters) == ["a", "input_types"]
    assert face.VALIDATE_INPUTS(a=0, input_types={}) == "too small"
    assert face.IS_CHANGED(a=1, b=2, prompt={}) == (1, {})
    assert face().check_lazy_status(a=None, prompt={}) == ["a"]
    assert JudgingMore().check_lazy_status(a=None) == ["a", "more"]
    assert inspect.iscoroutinefunction(getattr(face, face.FUNCTION))
    found = await getattr(face(), face.FUNCTION)(a=1, prompt={})
    assert found == {"result": (2,), "ui": {"text": ["1"]}, "expand": {"1": {}}}


def _node(returned: Any, outputs: int = 1) -> Any:
    class Made(io.ComfyNode):  # type: ignore[misc]
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema("Made", outputs=[io.Int.Output(f"o{index}") for index in range(outputs)])

        @classmethod
        def execute(cls) -> Any:
            return returned

    return Made().run()


def test_results_become_those_of_an_older_class() -> None:
    assert _node(io.NodeOutput(1)) == (1,)
    assert _node((1, 2)) == (1, 2)
    assert _node(None, outputs=0) == ()
    assert _node(io.NodeOutput(ui=ui.PreviewText("t")), outputs=0) == {"ui": {"text": ("t",)}}
    blocked = _node(io.NodeOutput(block_execution="no"), outputs=2)
    assert [(type(one), one.message) for one in blocked] == [(ExecutionBlocker, "no")] * 2
    assert io.NodeOutput.from_dict({"result": (1,), "ui": {}}).args == (1,)


def test_matching_types_are_checked_each_against_what_is_allowed() -> None:
    template = io.MatchType.Template("t", allowed_types=[io.Image, io.Mask])
    assert io.MatchType.Input("a", template=template).described() == ("IMAGE,MASK", {})
    assert io.MatchType.Output(template=template, id="b").io_type == "IMAGE,MASK"
    assert io.MatchType.Template("t").io_type == "*"


def test_a_pack_declares_a_type_of_its_own() -> None:
    @io.comfytype(io_type="OWN")
    class Own(io.ComfyTypeIO):  # type: ignore[misc]
        Type = int

    assert (Own.Input("a").io_type, Own.Output().label, io.Custom("X").io_type) == ("OWN", "OWN", "X")


def test_what_is_not_provided_says_so() -> None:
    with pytest.raises(NotProvidedError, match=r"docs/packs\.md"):
        io.DynamicCombo.Input("a", options=[])
    with pytest.raises(AttributeError, match=r"NoSuch of comfy_api\.latest\._io"):
        _ = io.NoSuch
    twice = io.Schema("Twice", inputs=[io.Int.Input("a"), io.Int.Input("a")])
    with pytest.raises(ValueError, match="two inputs"):
        twice.validate()


def test_pictures_are_saved_and_shown(tmp_path: Path) -> None:
    class Saving(io.ComfyNode):  # type: ignore[misc]
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema("Saving", inputs=[io.Image.Input("images")], is_output_node=True)

        @classmethod
        def execute(cls, images: Any) -> Any:
            return io.NodeOutput(ui=ui.ImageSaveHelper.get_save_images_ui(images, "s/x", cls=cls))

    found = Saving().run(images=torch.zeros(1, 4, 4, 3), prompt={"1": {}}, extra_pnginfo=None)
    assert found["ui"] == {"images": [{"filename": "x_00001_.png", "subfolder": "s", "type": "output"}]}
    with Image.open(tmp_path / "output/s/x_00001_.png") as picture:
        assert picture.info == {"prompt": '{"1": {}}'}
    mask = ui.PreviewMask(torch.ones(4, 4)).as_dict()
    assert (mask["animated"], mask["images"][0].type) == ((False,), io.FolderType.temp)
    with Image.open(tmp_path / "temp" / mask["images"][0].filename) as picture:
        assert picture.getpixel((0, 0)) == (255, 255, 255)


async def test_progress_is_told_and_a_cancelled_run_ends(watched: Watched) -> None:
    api, sync = latest.ComfyAPI(), importlib.import_module("comfy_api.v0_0_2").ComfyAPISync()
    sync.execution.set_progress(1, 2)
    with calling(watched.context()):
        await api.execution.set_progress(value=1, max_value=4)
        sync.execution.set_progress(2, 4, preview_image=torch.zeros(1, 8, 16, 3))
        watched.cancelled = True
        with pytest.raises(Cancelled):
            await api.execution.set_progress(3, 4)
    assert [report[:2] for report in watched.reports] == [(1, 4), (2, 4)]
    encode = watched.reports[1][2]
    assert encode is not None
    assert Image.open(streams.BytesIO(encode())).size == (512, 256)


async def test_a_pack_lists_its_nodes() -> None:
    class Pack(latest.ComfyExtension):  # type: ignore[misc]
        async def get_node_list(self) -> Any:
            return [Mixed]

    await Pack().on_load()
    assert await Pack().get_node_list() == [Mixed]


@pytest.mark.parametrize(
    "statement",
    [
        "from comfy_api.latest import io, ui, ComfyExtension, IO, UI, Input, InputImpl, Types",
        "from comfy_api.latest._io import NodeOutput, Image, Schema",
        "from comfy_api.input import ImageInput, AudioInput, VideoInput",
        "from comfy_api.input_impl import VideoFromComponents, VideoFromFile",
        "from comfy_api.util import VideoCodec, VideoContainer, VideoComponents",
    ],
)
def test_names_are_where_packs_look(statement: str) -> None:
    exec(statement, {})
