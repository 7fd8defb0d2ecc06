"""``ComfyAPI``: what a node tells the run while it works, and what a pack is that has node classes with schemas."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from engine.compat.comfy_api.latest._node import ComfyNode
from engine.compat.host import current
from engine.compat.progress import encoder, report

_LONGEST_SIDE = 512


def _tell(value: float, max_value: float, preview_image: Any, ignore_size_limit: bool) -> None:
    context = current.get()
    if context is None:
        return
    longest = None if ignore_size_limit else _LONGEST_SIDE
    report(
        context,
        value,
        max_value,
        None if preview_image is None else encoder(("JPEG", _picture(preview_image), longest)),
    )


def _picture(image: Any) -> Any:
    """A picture of Pillow's; of a tensor [B,H,W,C] or [H,W,C] its first."""
    if not hasattr(image, "detach"):
        return image
    from PIL import Image

    first = image[0] if image.ndim == 4 else image
    return Image.fromarray((first.detach().cpu().float().numpy().clip(0, 1) * 255).astype("uint8"))


class Execution:
    """Progress, to be awaited."""

    async def set_progress(
        self,
        value: float,
        max_value: float,
        node_id: str | None = None,
        preview_image: Any = None,
        ignore_size_limit: bool = False,
    ) -> None:
        """Say how far the call under way is. Raises ``InterruptProcessingException`` where the run was told to stop."""
        _tell(value, max_value, preview_image, ignore_size_limit)


class ExecutionSync:
    """Progress, without waiting."""

    def set_progress(
        self,
        value: float,
        max_value: float,
        node_id: str | None = None,
        preview_image: Any = None,
        ignore_size_limit: bool = False,
    ) -> None:
        """As ``Execution.set_progress``."""
        _tell(value, max_value, preview_image, ignore_size_limit)


class ComfyAPI:
    """For async nodes."""

    VERSION = "latest"
    STABLE = False

    def __init__(self) -> None:
        self.execution = Execution()


class ComfyAPISync:
    """For all others."""

    VERSION = "latest"
    STABLE = False

    def __init__(self) -> None:
        self.execution = ExecutionSync()


class ComfyExtension(ABC):
    """A pack: what its ``comfy_entrypoint`` gives."""

    async def on_load(self) -> None:  # noqa: B027  (there may be nothing to do)
        """Called once, before its nodes are asked for."""

    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]:
        """Its node classes."""
