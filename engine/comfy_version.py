"""The release of ComfyUI whose interfaces are the model here: what packs and clients are told when they ask."""

from typing import Final

COMFYUI_VERSION: Final = "0.3.64"
