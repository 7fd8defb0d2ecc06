"""``comfyui_version``: the release of ComfyUI whose contract for node packs is the model here."""

from engine.comfy_version import COMFYUI_VERSION

__version__ = COMFYUI_VERSION
