import asyncio
import time

from comfy_execution.graph import ExecutionBlocker
from comfy_execution.graph_utils import GraphBuilder, is_link

NODE_CLASS_MAPPINGS = {}
NODE_DISPLAY_NAME_MAPPINGS = {}

NUM_FLOW_SOCKETS = 3


class AlwaysEqual(str):
    def __eq__(self, _):
        return True

    def __ne__(self, _):
        return False

    __hash__ = str.__hash__


ANY = AlwaysEqual("*")


def register(cls):
    NODE_CLASS_MAPPINGS[cls.__name__] = cls
    NODE_DISPLAY_NAME_MAPPINGS[cls.__name__] = cls.__name__.replace("LT_", "")
    return cls


@register
class LT_WhileOpen:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"condition": ("BOOLEAN", {"default": True})},
            "optional": {f"initial_value{i}": (ANY,) for i in range(NUM_FLOW_SOCKETS)},
        }

    RETURN_TYPES = ("FLOW_CONTROL",) + (ANY,) * NUM_FLOW_SOCKETS
    RETURN_NAMES = ("flow",) + tuple(f"value{i}" for i in range(NUM_FLOW_SOCKETS))
    FUNCTION = "open"
    CATEGORY = "loop tools"

    def open(self, condition, **kwargs):
        values = [kwargs.get(f"initial_value{i}") if condition else ExecutionBlocker(None) for i in range(NUM_FLOW_SOCKETS)]
        return tuple(["stub"] + values)


@register
class LT_WhileClose:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "flow": ("FLOW_CONTROL", {"rawLink": True}),
                "condition": ("BOOLEAN", {"forceInput": True}),
            },
            "optional": {f"initial_value{i}": (ANY,) for i in range(NUM_FLOW_SOCKETS)},
            "hidden": {"dynprompt": "DYNPROMPT", "unique_id": "UNIQUE_ID"},
        }

    RETURN_TYPES = (ANY,) * NUM_FLOW_SOCKETS
    RETURN_NAMES = tuple(f"value{i}" for i in range(NUM_FLOW_SOCKETS))
    FUNCTION = "close"
    CATEGORY = "loop tools"

    def sources(self, node_id, dynprompt, upstream):
        for value in dynprompt.get_node(node_id)["inputs"].values():
            if is_link(value):
                parent = value[0]
                if parent not in upstream:
                    upstream[parent] = []
                    self.sources(parent, dynprompt, upstream)
                upstream[parent].append(node_id)

    def between(self, node_id, upstream, contained):
        for child in upstream.get(node_id, []):
            if child not in contained:
                contained[child] = True
                self.between(child, upstream, contained)

    def close(self, flow, condition, dynprompt=None, unique_id=None, **kwargs):
        if not condition:
            return tuple(kwargs.get(f"initial_value{i}") for i in range(NUM_FLOW_SOCKETS))
        upstream = {}
        self.sources(unique_id, dynprompt, upstream)
        contained = {}
        open_node = flow[0]
        self.between(open_node, upstream, contained)
        contained[unique_id] = True
        contained[open_node] = True

        graph = GraphBuilder()
        for node_id in contained:
            original = dynprompt.get_node(node_id)
            node = graph.node(original["class_type"], "Recurse" if node_id == unique_id else node_id)
            node.set_override_display_id(node_id)
        for node_id in contained:
            original = dynprompt.get_node(node_id)
            node = graph.lookup_node("Recurse" if node_id == unique_id else node_id)
            for k, v in original["inputs"].items():
                if is_link(v) and v[0] in contained:
                    parent = graph.lookup_node(v[0])
                    node.set_input(k, parent.out(v[1]))
                else:
                    node.set_input(k, v)
        new_open = graph.lookup_node(open_node)
        for i in range(NUM_FLOW_SOCKETS):
            key = f"initial_value{i}"
            new_open.set_input(key, kwargs.get(key))
        again = graph.lookup_node("Recurse")
        return {"result": tuple(again.out(i) for i in range(NUM_FLOW_SOCKETS)), "expand": graph.finalize()}


@register
class LT_ForOpen:
    """Counts down from ``remaining``: two nodes in one, the way packs build them."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"remaining": ("INT", {"default": 1, "min": 0, "max": 100000})},
            "optional": {f"initial_value{i}": (ANY,) for i in range(1, NUM_FLOW_SOCKETS)},
            "hidden": {"initial_value0": (ANY,)},
        }

    RETURN_TYPES = ("FLOW_CONTROL", "INT") + (ANY,) * (NUM_FLOW_SOCKETS - 1)
    RETURN_NAMES = ("flow", "remaining", "value1", "value2")
    FUNCTION = "open"
    CATEGORY = "loop tools"

    def open(self, remaining, **kwargs):
        graph = GraphBuilder()
        if kwargs.get("initial_value0") is not None:
            remaining = kwargs["initial_value0"]
        values = {f"initial_value{i}": kwargs.get(f"initial_value{i}") for i in range(1, NUM_FLOW_SOCKETS)}
        graph.node("LT_WhileOpen", condition=remaining, initial_value0=remaining, **values)
        return {
            "result": tuple(["stub", remaining] + [kwargs.get(f"initial_value{i}") for i in range(1, NUM_FLOW_SOCKETS)]),
            "expand": graph.finalize(),
        }


@register
class LT_ForClose:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"flow": ("FLOW_CONTROL", {"rawLink": True})},
            "optional": {f"initial_value{i}": (ANY, {"rawLink": True}) for i in range(1, NUM_FLOW_SOCKETS)},
        }

    RETURN_TYPES = (ANY,) * (NUM_FLOW_SOCKETS - 1)
    RETURN_NAMES = ("value1", "value2")
    FUNCTION = "close"
    CATEGORY = "loop tools"

    def close(self, flow, **kwargs):
        graph = GraphBuilder()
        sub = graph.node("LT_IntMath", operation="subtract", a=[flow[0], 1], b=1)
        cond = graph.node("LT_ToBool", value=sub.out(0))
        values = {f"initial_value{i}": kwargs.get(f"initial_value{i}") for i in range(1, NUM_FLOW_SOCKETS)}
        loop = graph.node("LT_WhileClose", flow=flow, condition=cond.out(0), initial_value0=sub.out(0), **values)
        return {"result": tuple(loop.out(i) for i in range(1, NUM_FLOW_SOCKETS)), "expand": graph.finalize()}


@register
class LT_IntMath:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "a": ("INT", {"default": 0, "min": -0xFFFFFFFFFFFFFFFF, "max": 0xFFFFFFFFFFFFFFFF}),
                "b": ("INT", {"default": 0, "min": -0xFFFFFFFFFFFFFFFF, "max": 0xFFFFFFFFFFFFFFFF}),
                "operation": (["add", "subtract", "multiply"],),
            }
        }

    RETURN_TYPES = ("INT",)
    FUNCTION = "math"
    CATEGORY = "loop tools"

    def math(self, a, b, operation):
        return ({"add": a + b, "subtract": a - b, "multiply": a * b}[operation],)


@register
class LT_ToBool:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 0})}, "optional": {"invert": ("BOOLEAN", {"default": False})}}

    RETURN_TYPES = ("BOOLEAN",)
    FUNCTION = "to_bool"
    CATEGORY = "loop tools"

    def to_bool(self, value, invert=False):
        return (bool(value) != invert,)


@register
class LT_LazySwitch:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"switch": ("BOOLEAN",)},
            "optional": {"on_false": (ANY, {"lazy": True}), "on_true": (ANY, {"lazy": True})},
        }

    RETURN_TYPES = (ANY,)
    FUNCTION = "pick"
    CATEGORY = "loop tools"

    def check_lazy_status(self, switch, on_false=None, on_true=None):
        if switch and on_true is None:
            return ["on_true"]
        if not switch and on_false is None:
            return ["on_false"]
        return []

    def pick(self, switch, on_false=None, on_true=None):
        return (on_true if switch else on_false,)


@register
class LT_LazySum:
    """Asks for one input after the other until it has enough."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"enough": ("INT", {"default": 10})},
            "optional": {f"value{i}": ("INT", {"lazy": True}) for i in range(4)},
        }

    RETURN_TYPES = ("INT", "INT")
    RETURN_NAMES = ("sum", "asked")
    FUNCTION = "add"
    CATEGORY = "loop tools"

    def check_lazy_status(self, enough, **kwargs):
        known = [v for v in kwargs.values() if v is not None]
        missing = sorted(k for k, v in kwargs.items() if v is None)
        return missing[:1] if sum(known) < enough else []

    def add(self, enough, **kwargs):
        known = [v for v in kwargs.values() if v is not None]
        return (sum(known), len(known))


@register
class LT_Accumulate:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"to_add": (ANY,)}, "optional": {"accumulation": ("ACCUMULATION",)}}

    RETURN_TYPES = ("ACCUMULATION",)
    FUNCTION = "accumulate"
    CATEGORY = "loop tools"

    def accumulate(self, to_add, accumulation=None):
        value = [to_add] if accumulation is None else accumulation["accum"] + [to_add]
        return ({"accum": value},)


@register
class LT_AccumulationToList:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"accumulation": ("ACCUMULATION",)}}

    RETURN_TYPES = (ANY,)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "spread"
    CATEGORY = "loop tools"

    def spread(self, accumulation):
        return (accumulation["accum"],)


@register
class LT_Gate:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"value": (ANY,), "block": ("BOOLEAN",)},
            "optional": {"message": ("STRING", {"default": ""}), "verbose": ("BOOLEAN", {"default": False})},
        }

    RETURN_TYPES = (ANY,)
    FUNCTION = "gate"
    CATEGORY = "loop tools"

    def gate(self, value, block, message="", verbose=False):
        return (ExecutionBlocker(message if verbose else None) if block else value,)


@register
class LT_Sleep:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"value": (ANY,), "seconds": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 60.0})},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    RETURN_TYPES = (ANY, "FLOAT", "FLOAT")
    FUNCTION = "sleep"
    CATEGORY = "loop tools"

    async def sleep(self, value, seconds, unique_id):
        began = time.monotonic()
        await asyncio.sleep(seconds)
        return (value, began, time.monotonic())


@register
class LT_Changing:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 0}), "always": ("BOOLEAN", {"default": False})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "count"
    CATEGORY = "loop tools"

    def __init__(self):
        self.count_of_calls = 0

    @classmethod
    def IS_CHANGED(cls, value, always):
        return float("NaN") if always else value

    def count(self, value, always):
        self.count_of_calls += 1
        return (self.count_of_calls,)


@register
class LT_Typed:
    """Judges the types of its links itself, and is told them."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("INT,FLOAT", {}), "b": ("INT,FLOAT", {})}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "name"
    CATEGORY = "loop tools"

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        if len(set(input_types.values())) > 1:
            return f"both have to be of one type, found {sorted(set(input_types.values()))}"
        return True

    def name(self, a, b):
        return (type(a).__name__,)


@register
class LT_Range:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {"default": 3, "min": 0}), "start": ("INT", {"default": 0})}}

    RETURN_TYPES = ("INT",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "range"
    CATEGORY = "loop tools"

    def range(self, count, start):
        return (list(range(start, start + count)),)


@register
class LT_Show:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (ANY,)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "show"
    CATEGORY = "loop tools"

    def show(self, value):
        return {"ui": {"text": (str(value),)}}


@register
class LT_Expanding:
    """Becomes two of core's nodes and one of its own."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"size": ("INT", {"default": 8, "min": 1, "max": 512}), "color": ("INT", {"default": 255})}}

    RETURN_TYPES = ("IMAGE", "IMAGE")
    FUNCTION = "become"
    CATEGORY = "loop tools"

    def become(self, size, color):
        g = GraphBuilder()
        plain = g.node("EmptyImage", width=size, height=size, batch_size=1, color=color)
        inverted = g.node("ImageInvert", image=plain.out(0))
        return {"result": (plain.out(0), inverted.out(0)), "expand": g.finalize()}


@register
class LT_CallsSoFar:
    """How often the class was called in this process."""

    calls = 0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (ANY,)}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "count"
    CATEGORY = "loop tools"

    def count(self, value):
        LT_CallsSoFar.calls += 1
        return (LT_CallsSoFar.calls,)


@register
class LT_Thinks:
    """Takes its time over what follows from its input alone."""

    MEZZOTINT_PURE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 0})}}

    RETURN_TYPES = ("INT", "STRING")
    RETURN_NAMES = ("next", "when")
    FUNCTION = "think"
    CATEGORY = "loop tools"

    def think(self, value):
        time.sleep(0.15)
        return (value + 1, str(time.time_ns()))
