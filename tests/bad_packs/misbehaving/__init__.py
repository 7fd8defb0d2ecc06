import os
import signal
import sys
import threading
import time

from comfy_execution.graph_utils import GraphBuilder

NODE_CLASS_MAPPINGS = {}


def register(cls):
    NODE_CLASS_MAPPINGS[cls.__name__] = cls
    return cls


class Base:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 0})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "go"
    CATEGORY = "misbehaving"


@register
class BP_Fine(Base):
    OUTPUT_NODE = True

    def go(self, value):
        return {"ui": {"text": [str(value)]}, "result": (value,)}


@register
class BP_Exit(Base):
    def go(self, value):
        sys.exit(value)


@register
class BP_Die(Base):
    def go(self, value):
        os._exit(7)


@register
class BP_Crash(Base):
    def go(self, value):
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)


@register
class BP_Hang(Base):
    def go(self, value):
        while True:
            time.sleep(0.05)


@register
class BP_Threads(Base):
    """Starts a thread that never ends and would keep the process."""

    def go(self, value):
        threading.Thread(target=lambda: [time.sleep(1) for _ in range(10**6)], daemon=False).start()
        return (value,)


@register
class BP_Raise(Base):
    def go(self, value):
        raise ValueError(f"value {value} is\nno good")


@register
class BP_TooFew(Base):
    RETURN_TYPES = ("INT", "INT")

    def go(self, value):
        return (value,)


@register
class BP_TooMany(Base):
    def go(self, value):
        return (value, value, value)


@register
class BP_Nothing(Base):
    def go(self, value):
        return None


@register
class BP_WrongType(Base):
    RETURN_TYPES = ("INT",)

    def go(self, value):
        return ("a text",)


@register
class BP_FlatImage(Base):
    """A picture without its batch dimension: the mistake packs make most."""

    RETURN_TYPES = ("IMAGE",)

    def go(self, value):
        import torch

        return (torch.zeros(8, 8, 3),)


@register
class BP_Huge(Base):
    RETURN_TYPES = ("IMAGE",)

    def go(self, value):
        import torch

        return (torch.zeros(1, 10**7, 10**7, 3),)


@register
class BP_HugeUi(Base):
    OUTPUT_NODE = True

    def go(self, value):
        return {"ui": {"text": ["x" * (40 << 20)]}, "result": (value,)}


@register
class BP_Mutate:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "go"

    def go(self, image):
        image[:] = 1.0
        return (image,)


@register
class BP_Endless(Base):
    def go(self, value):
        graph = GraphBuilder()
        again = graph.node("BP_Endless", value=value + 1)
        return {"result": (again.out(0),), "expand": graph.finalize()}


@register
class BP_Cycle(Base):
    def go(self, value):
        graph = GraphBuilder()
        first = graph.node("BP_Fine", "first")
        second = graph.node("BP_Fine", "second", value=first.out(0))
        first.set_input("value", second.out(0))
        return {"result": (second.out(0),), "expand": graph.finalize()}


@register
class BP_UnknownInside(Base):
    def go(self, value):
        graph = GraphBuilder()
        return {"result": (graph.node("NobodyHasThis", value=value).out(0),), "expand": graph.finalize()}


@register
class BP_Asks(Base):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"lazy": True})}}

    def check_lazy_status(self, value):
        return ["not_there"]

    def go(self, value):
        return (value,)


@register
class BP_Prints(Base):
    OUTPUT_NODE = True

    def go(self, value):
        print('{"this": "is no JSON of yours"}')
        os.write(1, b"nor is this\n")
        return {"ui": {"text": ["printed"]}, "result": (value,)}


@register
class BP_CheckRaises(Base):
    @classmethod
    def VALIDATE_INPUTS(cls, value):
        raise RuntimeError("checks are hard")

    def go(self, value):
        return (value,)


@register
class BP_ImagineChanged(Base):
    @classmethod
    def IS_CHANGED(cls, value):
        raise RuntimeError("who knows")

    def go(self, value):
        return (value,)


@register
class BP_Forks(Base):
    """Leaves a child behind that outlives it, as pools of processes do."""

    def go(self, value):
        if os.fork() == 0:
            time.sleep(300)
            os._exit(0)
        os._exit(9)


@register
class BP_HangsWhenAsked(Base):
    @classmethod
    def IS_CHANGED(cls, value):
        while True:
            time.sleep(0.05)

    def go(self, value):
        return (value,)
