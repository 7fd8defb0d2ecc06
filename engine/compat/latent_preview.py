"""``latent_preview``: what a sampling loop of a pack calls after each step. It reports steps; core samplers alone show pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.compat.missing import module_getattr
from engine.compat.progress import ProgressBar

MAX_PREVIEW_RESOLUTION = 512


class LatentPreviewer:
    """Base of what makes a picture of a latent."""

    def decode_latent_to_preview(self, x0: Any) -> Any:
        raise NotImplementedError

    def decode_latent_to_preview_image(self, preview_format: str, x0: Any) -> tuple[str, Any, int]:
        return preview_format, self.decode_latent_to_preview(x0), MAX_PREVIEW_RESOLUTION


def get_previewer(device: Any, latent_format: Any) -> LatentPreviewer | None:
    """None: packs go on without pictures."""
    return None


def prepare_callback(
    model: Any, steps: int, x0_output_dict: dict[str, Any] | None = None
) -> Callable[[int, Any, Any, int], None]:
    """A function of (step, x0, x, total) that reports, and stops a run that was told to."""
    bar = ProgressBar(steps)

    def callback(step: int, x0: Any, x: Any, total_steps: int) -> None:
        if x0_output_dict is not None:
            x0_output_dict["x0"] = x0
        bar.update_absolute(step + 1, total_steps)

    return callback


__getattr__ = module_getattr(__name__)
