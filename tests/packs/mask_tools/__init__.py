import math

import torch
import torch.nn.functional as F

import comfy.model_management as mm
import comfy.utils
from comfy.utils import ProgressBar, common_upscale
from server import PromptServer

CATEGORY = "mask tools"


class AnyType(str):
    """A special type that can be connected to any other type."""

    def __ne__(self, __value: object) -> bool:
        return False


any_type = AnyType("*")


class FlexibleOptionalInputType(dict):
    """Any number of further inputs."""

    def __init__(self, type):
        self.type = type

    def __getitem__(self, key):
        return (self.type,)

    def __contains__(self, key):
        return True


class MaskGrow:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "mask": ("MASK",),
                "pixels": ("INT", {"default": 1, "min": -64, "max": 64, "step": 1}),
            }
        }

    RETURN_TYPES = ("MASK",)
    FUNCTION = "grow"
    CATEGORY = CATEGORY

    def grow(self, mask, pixels):
        device = mm.get_torch_device()
        mask = mask.to(device).unsqueeze(1)
        bar = ProgressBar(abs(pixels))
        for _ in range(abs(pixels)):
            mm.throw_exception_if_processing_interrupted()
            mask = F.max_pool2d(mask, 3, 1, 1) if pixels > 0 else -F.max_pool2d(-mask, 3, 1, 1)
            bar.update(1)
        return (mask.squeeze(1).to(mm.intermediate_device()),)


class MaskToSize:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "mask": ("MASK",),
                "width": ("INT", {"default": 64, "min": 1, "max": 8192}),
                "height": ("INT", {"default": 64, "min": 1, "max": 8192}),
                "method": (["nearest-exact", "bilinear", "area"],),
            }
        }

    RETURN_TYPES = ("MASK", "INT", "INT")
    RETURN_NAMES = ("mask", "width", "height")
    FUNCTION = "resize"
    CATEGORY = CATEGORY

    def resize(self, mask, width, height, method):
        resized = common_upscale(mask.unsqueeze(1), width, height, method, "disabled").squeeze(1)
        return (resized, width, height)


class MaskCircle:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "size": ("INT", {"default": 32, "min": 1, "max": 4096}),
                "radius": ("FLOAT", {"default": 8.0, "min": 0.0, "max": 4096.0, "step": 0.1}),
            }
        }

    RETURN_TYPES = ("MASK",)
    FUNCTION = "draw"
    CATEGORY = CATEGORY

    def draw(self, size, radius):
        axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        return (((axis[None] ** 2 + axis[:, None] ** 2).sqrt() <= radius).float().unsqueeze(0),)


class MasksTogether:
    """Any number of masks, given as any number of inputs or as a list."""

    INPUT_IS_LIST = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"how": (["add", "multiply"],)},
            "optional": FlexibleOptionalInputType("MASK"),
        }

    RETURN_TYPES = ("MASK", "INT")
    FUNCTION = "join"
    CATEGORY = CATEGORY

    def join(self, how, **kwargs):
        masks = [mask for name in sorted(kwargs) for mask in kwargs[name]]
        result = masks[0]
        for mask in masks[1:]:
            result = torch.clamp(result + mask, 0, 1) if how[0] == "add" else result * mask
        return (result, len(masks))


class MaskArea:
    """How much of a mask is set. Says so to the browser as well."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mask": ("MASK",)}, "hidden": {"id": "UNIQUE_ID"}}

    RETURN_TYPES = ("FLOAT", "INT")
    RETURN_NAMES = ("share", "pixels")
    OUTPUT_NODE = True
    FUNCTION = "measure"
    CATEGORY = CATEGORY

    def measure(self, mask, id=None):
        share = mask.mean().item()
        PromptServer.instance.send_sync("mask_tools.area", {"node": id, "share": share})
        return {"ui": {"text": [f"{share:.3f}"]}, "result": (share, math.ceil(mask.sum().item()))}


class ShowAnything:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (any_type, {})}}

    RETURN_TYPES = (any_type,)
    OUTPUT_NODE = True
    FUNCTION = "show"
    CATEGORY = CATEGORY

    def show(self, value):
        return {"ui": {"text": [str(value)]}, "result": (value,)}


@PromptServer.instance.routes.get("/mask_tools/version")
async def version(request):
    from aiohttp import web

    return web.json_response({"version": 1})


NODE_CLASS_MAPPINGS = {
    "MaskGrow|mask_tools": MaskGrow,
    "MaskToSize|mask_tools": MaskToSize,
    "MaskCircle|mask_tools": MaskCircle,
    "MasksTogether|mask_tools": MasksTogether,
    "MaskArea|mask_tools": MaskArea,
    "ShowAnything|mask_tools": ShowAnything,
}
NODE_DISPLAY_NAME_MAPPINGS = {k: k.split("|")[0] for k in NODE_CLASS_MAPPINGS}
