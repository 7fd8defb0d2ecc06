"""Socket types of the typed API: each a class with an ``Input`` and an ``Output``."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from engine.compat.missing import NotProvidedError, message


class NumberDisplay(enum.StrEnum):
    """How a number looks in an editor."""

    number = "number"
    slider = "slider"
    color = "color"
    gradient_slider = "gradientslider"


class ControlAfterGenerate(enum.StrEnum):
    """What an editor does with a value once the workflow is queued."""

    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


class UploadType(enum.StrEnum):
    """Which files a choice lets a user add."""

    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class FolderType(enum.StrEnum):
    """The folders of files."""

    input = "input"
    output = "output"
    temp = "temp"


class RemoteOptions:
    """Where an editor gets the choices from."""

    def __init__(
        self,
        route: str,
        refresh_button: bool = True,
        control_after_refresh: str = "first",
        timeout: int | None = None,
        max_retries: int | None = None,
        refresh: int | None = None,
    ) -> None:
        self.route = route
        self.options = {
            "route": route,
            "refresh_button": refresh_button,
            "control_after_refresh": control_after_refresh,
            "timeout": timeout,
            "max_retries": max_retries,
            "refresh": refresh,
        }

    def as_dict(self) -> dict[str, Any]:
        return _said(self.options)


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a value; enumerations become plain."""
    return {name: _plain(value) for name, value in options.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return value.as_dict() if isinstance(value, RemoteOptions) else value


class Input:
    """An input: its name, its socket type, and what an editor is told."""

    Parent: ClassVar[Any] = None

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        extra_dict: Mapping[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
        **options: Any,
    ) -> None:
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.lazy = lazy
        self.options: dict[str, Any] = {
            "display_name": display_name,
            "tooltip": tooltip,
            "lazy": lazy,
            "rawLink": raw_link,
            "advanced": advanced,
            **options,
            **(extra_dict or {}),
        }

    @property
    def io_type(self) -> str:
        return str(self.Parent.io_type)

    def get_io_type(self) -> str:
        return self.io_type

    def described(self) -> tuple[Any, dict[str, Any]]:
        """``(type, options)`` as ``INPUT_TYPES`` has it."""
        return self.io_type, _said(self.options)

    def as_dict(self) -> dict[str, Any]:
        return _said(self.options)

    def slots(self) -> dict[str, tuple[bool, Input]]:
        """The inputs of the node that it stands for, by the names they have in a workflow: whether each may be left out, and what it is."""
        return {self.id: (self.optional, self)}


class WidgetInput(Input):
    """An input whose value can be typed in."""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: Any = None,
        socketless: bool | None = None,
        widget_type: str | None = None,
        force_input: bool | None = None,
        extra_dict: Mapping[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            id,
            display_name,
            optional,
            tooltip,
            lazy,
            extra_dict,
            raw_link,
            advanced,
            default=default,
            socketless=socketless,
            widgetType=widget_type,
            forceInput=force_input,
            **options,
        )
        self.default = default


class Output:
    """An output."""

    Parent: ClassVar[Any] = None

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        self.id = id
        self.display_name = display_name or id
        self.tooltip = tooltip
        self.is_output_list = is_output_list

    @property
    def io_type(self) -> str:
        return str(self.Parent.io_type)

    def get_io_type(self) -> str:
        return self.io_type

    @property
    def label(self) -> str:
        return self.display_name or self.io_type


class ComfyType:
    """A socket type. ``Type`` is what travels on its links, for type checkers."""

    io_type: ClassVar[str] = "*"
    Type: ClassVar[Any] = Any
    Input: ClassVar[type[Any]] = Input
    Output: ClassVar[type[Any]] = Output

    def __init_subclass__(cls, io_type: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if io_type is not None:
            cls.io_type = io_type
        own = vars(cls)
        for name in ("Input", "Output"):  # each type has classes of its own, which know it
            base = own.get(name) or getattr(cls, name)
            setattr(cls, name, type(name, (base,), {"Parent": cls, "__module__": cls.__module__}))


class ComfyTypeIO(ComfyType):
    """Base of types that packs declare."""


def comfytype(io_type: str, **_: Any) -> Any:
    """Decorates a class of a pack's own that stands for a socket type."""

    def decorate(cls: type) -> type:
        if issubclass(cls, ComfyType):
            cls.io_type = io_type
            return cls
        members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        return type(cls.__name__, (cls, ComfyType), members | {"io_type": io_type})

    return decorate


def Custom(io_type: str) -> type[ComfyType]:
    """The type called ``io_type``, which a pack defines."""
    return type("Custom", (ComfyType,), {"io_type": io_type})


class Boolean(ComfyType, io_type="BOOLEAN"):
    """True or false."""

    class Input(WidgetInput):
        """A switch."""

        def __init__(
            self, id: str, *args: Any, label_on: str | None = None, label_off: str | None = None, **kw: Any
        ) -> None:
            super().__init__(id, *args, label_on=label_on, label_off=label_off, **kw)


class Int(ComfyType, io_type="INT"):
    """A whole number."""

    class Input(WidgetInput):
        """A number that can be typed in."""

        def __init__(
            self,
            id: str,
            *args: Any,
            min: int | None = None,
            max: int | None = None,
            step: int | None = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            display_mode: NumberDisplay | None = None,
            **kw: Any,
        ) -> None:
            control = control_after_generate
            super().__init__(
                id, *args, min=min, max=max, step=step, control_after_generate=control, display=display_mode, **kw
            )


class Float(ComfyType, io_type="FLOAT"):
    """A number."""

    class Input(WidgetInput):
        """A number that can be typed in."""

        def __init__(
            self,
            id: str,
            *args: Any,
            min: float | None = None,
            max: float | None = None,
            step: float | None = None,
            round: float | None = None,
            display_mode: NumberDisplay | None = None,
            gradient_stops: Any = None,
            **kw: Any,
        ) -> None:
            shown = {"display": display_mode, "gradient_stops": gradient_stops}
            super().__init__(id, *args, min=min, max=max, step=step, round=round, **(shown | kw))


class String(ComfyType, io_type="STRING"):
    """Text."""

    class Input(WidgetInput):
        """A field, or a box of lines."""

        def __init__(
            self,
            id: str,
            *args: Any,
            multiline: bool | None = None,
            placeholder: str | None = None,
            dynamic_prompts: bool | None = None,
            **kw: Any,
        ) -> None:
            lines = multiline or None
            super().__init__(id, *args, multiline=lines, placeholder=placeholder, dynamicPrompts=dynamic_prompts, **kw)


def _choices(options: Any) -> list[Any] | None:
    if isinstance(options, type) and issubclass(options, enum.Enum):
        return [member.value for member in options]
    return None if options is None else list(options)


class _ComboInput(WidgetInput):
    """A choice."""

    def __init__(
        self,
        id: str,
        options: Any = None,
        *args: Any,
        control_after_generate: bool | ControlAfterGenerate | None = None,
        upload: UploadType | None = None,
        image_folder: FolderType | None = None,
        remote: RemoteOptions | None = None,
        **kw: Any,
    ) -> None:
        if upload is not None:
            kw[upload.value] = True
        if isinstance(kw.get("default"), enum.Enum):
            kw["default"] = kw["default"].value
        # the choices are in two places: as packs of today read them, and as the type, where there are any
        self.choices = _choices(options)
        super().__init__(
            id,
            *args,
            control_after_generate=control_after_generate,
            image_folder=image_folder,
            remote=remote,
            **kw,
        )

    def described(self) -> tuple[Any, dict[str, Any]]:
        kind, options = super().described()
        return kind, options if self.choices is None else {**options, "options": self.choices}


class Combo(ComfyType, io_type="COMBO"):
    """One of a few."""

    Input = _ComboInput

    class Output(Output):
        """What was chosen; the choices may be said."""

        def __init__(
            self,
            id: str | None = None,
            display_name: str | None = None,
            options: Any = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
        ) -> None:
            super().__init__(id, display_name, tooltip, is_output_list)
            self.options = _choices(options) or []


class MultiCombo(ComfyType, io_type="COMBO"):
    """Some of a few; a list."""

    class Input(_ComboInput):
        """A choice of several."""

        def __init__(
            self, id: str, options: Any, *args: Any, placeholder: str | None = None, chip: bool | None = None, **kw: Any
        ) -> None:
            several = _said({"placeholder": placeholder, "chip": chip})
            super().__init__(id, options, *args, multiselect=True, multi_select=several, **kw)


_PLAIN = {
    "Image": "IMAGE",
    "Mask": "MASK",
    "Latent": "LATENT",
    "Conditioning": "CONDITIONING",
    "Model": "MODEL",
    "Clip": "CLIP",
    "Vae": "VAE",
    "ControlNet": "CONTROL_NET",
    "ClipVision": "CLIP_VISION",
    "ClipVisionOutput": "CLIP_VISION_OUTPUT",
    "StyleModel": "STYLE_MODEL",
    "Gligen": "GLIGEN",
    "UpscaleModel": "UPSCALE_MODEL",
    "LatentUpscaleModel": "LATENT_UPSCALE_MODEL",
    "ModelPatch": "MODEL_PATCH",
    "AudioEncoder": "AUDIO_ENCODER",
    "AudioEncoderOutput": "AUDIO_ENCODER_OUTPUT",
    "Sampler": "SAMPLER",
    "Sigmas": "SIGMAS",
    "Noise": "NOISE",
    "Guider": "GUIDER",
    "Hooks": "HOOKS",
    "HookKeyframes": "HOOK_KEYFRAMES",
    "TimestepsRange": "TIMESTEPS_RANGE",
    "LatentOperation": "LATENT_OPERATION",
    "FlowControl": "FLOW_CONTROL",
    "Audio": "AUDIO",
    "Video": "VIDEO",
    "SVG": "SVG",
    "LoraModel": "LORA_MODEL",
    "LossMap": "LOSS_MAP",
    "Voxel": "VOXEL",
    "Mesh": "MESH",
    "Webcam": "WEBCAM",
    "Point": "POINT",
    "FaceAnalysis": "FACE_ANALYSIS",
    "BBOX": "BBOX",
    "SEGS": "SEGS",
    "AnyType": "*",
    "Photomaker": "PHOTOMAKER",
    "WanCameraEmbedding": "WAN_CAMERA_EMBEDDING",
    "Tracks": "TRACKS",
    "Load3D": "LOAD_3D",
    "Load3DAnimation": "LOAD_3D_ANIMATION",
    "Load3DCamera": "LOAD3D_CAMERA",
    "Dict": "DICT",
    "BoundingBox": "BOUNDING_BOX",
}

PLAIN_TYPES: dict[str, type[ComfyType]] = {
    name: type(name, (ComfyType,), {"io_type": io_type, "__module__": __name__}) for name, io_type in _PLAIN.items()
}
"""Types that only ever come over a link, by the names of their classes."""


def _union(types: Sequence[Any]) -> str:
    names = dict.fromkeys(str(one.io_type) for one in types)
    return "*" if not names or "*" in names else ",".join(names)


class MultiType(ComfyType):
    """One of several types."""

    class Input(Input):
        """Takes any of ``types``; as a widget where it is made of one."""

        def __init__(self, id: Any, types: Sequence[Any], *args: Any, **kw: Any) -> None:
            widget = id if isinstance(id, WidgetInput) else None
            super().__init__(id.id if isinstance(id, Input) else id, *args, **kw)
            own = [] if widget is None else [widget]
            self._type = _union([*own, *types])
            if widget is not None:
                self.optional = self.optional or widget.optional
                self.options = {**widget.options, **_said(self.options), "widgetType": widget.io_type}

        @property
        def io_type(self) -> str:
            return self._type


class MatchType(ComfyType):
    """Inputs and outputs of one type, which what is linked decides. The engine checks each against the types allowed."""

    class Template:
        """Which belong together, and what they may be."""

        def __init__(self, template_id: str, allowed_types: Any = None) -> None:
            self.template_id = template_id
            kinds = allowed_types if isinstance(allowed_types, list | tuple) else [allowed_types]
            self.io_type = _union([kind for kind in kinds if kind is not None])

    class Input(Input):
        """One of those inputs."""

        def __init__(self, id: str, template: Any, *args: Any, **kw: Any) -> None:
            super().__init__(id, *args, **kw)
            self.template = template

        @property
        def io_type(self) -> str:
            return str(self.template.io_type)

    class Output(Output):
        """One of those outputs."""

        def __init__(self, template: Any, id: str | None = None, *args: Any, **kw: Any) -> None:
            super().__init__(id, *args, **kw)
            self.template = template

        @property
        def io_type(self) -> str:
            return str(self.template.io_type)


class _Growing:
    """Base of what stands for inputs whose number is not known beforehand: not here."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotProvidedError(message(f"{type(self).__qualname__} of comfy_api.latest.io"))


class _Slots:
    """What each of several inputs is, and what they are called; the first ``min`` have to be there."""

    def __init__(self, input: Any, names: Sequence[str], min: int) -> None:
        self.input = input
        self.names = list(names)
        self.min = min


class Autogrow(ComfyType, io_type="COMFY_AUTOGROW_V3"):
    """As many inputs as are linked, called ``<id>.<name>`` in a workflow; the function gets them as one dict by their names.

    An editor is shown all there may be.
    """

    class TemplatePrefix(_Slots):
        """Inputs called by a number, from 0 on."""

        def __init__(self, input: Any, prefix: str, min: int = 1, max: int = 10) -> None:
            super().__init__(input, [f"{prefix}{index}" for index in range(max)], min)

    class TemplateNames(_Slots):
        """Inputs with names of their own."""

        def __init__(self, input: Any, names: Sequence[str], min: int = 1) -> None:
            super().__init__(input, names, min)

    class Input(Input):
        """All of them."""

        def __init__(self, id: str, template: Any, *args: Any, **kw: Any) -> None:
            super().__init__(id, *args, **kw)
            self.template = template

        def slots(self) -> dict[str, tuple[bool, Any]]:
            one = self.template.input
            return {
                f"{self.id}.{name}": (self.optional or one.optional or index >= self.template.min, one)
                for index, name in enumerate(self.template.names)
            }

        def gathered(self, given: Mapping[str, Any]) -> dict[str, Any]:
            """Those that are there, by their own names."""
            return {name.removeprefix(f"{self.id}."): given[name] for name in self.slots() if name in given}


class DynamicCombo(ComfyType, io_type="COMFY_DYNAMICCOMBO_V3"):
    """A choice that decides about further inputs."""

    class Input(_Growing): ...

    class Option(_Growing): ...


class DynamicSlot(ComfyType, io_type="COMFY_DYNAMICSLOT_V3"):
    """An input that brings others when it is linked."""

    class Input(_Growing): ...
