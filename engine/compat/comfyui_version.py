"""``comfyui_version``: the release of ComfyUI whose contract for node packs is the model here."""

__version__ = "0.3.64"
