"""Parts of a picture through a VAE and a model, one after the other; see ``nodes.diffusion.redraw``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from engine.models import ModelRef, ModelStore, Recipe
from nodes.diffusion import custom, leases, redraw, unet, vae
from nodes.diffusion.conditioning import Conditioning
from nodes.diffusion.redraw import Part, Plan
from nodes.diffusion.sample import Callbacks, Settings, StepInfo, sample_latent

Progress = Callable[[int, int, Callable[[], bytes] | None], None]
_SHARES = 1000
"""What progress counts in, to a part."""


@dataclass(frozen=True, slots=True, eq=False)
class Painter:
    """What parts are sampled with. With ``way``, a sampler and sigmas, these take the place of those that ``settings`` name.

    ``progress`` is told after every step, and may end the work by raising.
    """

    store: ModelStore
    model: ModelRef
    vae: ModelRef
    positive: Conditioning
    negative: Conditioning
    settings: Settings
    progress: Progress
    warn: Callable[[str], None]
    way: tuple[Recipe, Tensor] | None = None
    decodes_in_tiles: bool = False

    def redrawn(self, pictures: Tensor, plan: Plan) -> Tensor:
        """Pictures [B,H,W,C], painted anew; their sides may be any."""
        height, width = pictures.shape[1:3]
        whole = redraw.filled(pictures)
        size = whole.shape[1], whole.shape[2]
        total, done = len(redraw.parts(plan, *size)), 0

        def paint(seen: Tensor, part: Part) -> Tensor:
            nonlocal done
            made = self._painted(seen, part, size, done, total)
            done += 1
            return made

        return redraw.redrawn(whole, plan, paint)[:, :height, :width].contiguous()

    def _painted(self, seen: Tensor, part: Part, size: tuple[int, int], index: int, total: int) -> Tensor:
        with self.store.lease(self.vae) as loaded:
            latent = vae.encode(seen, loaded, warn=self.warn)
        sampled = self._sampled(latent, part, size, index, total)
        with self.store.lease(self.vae) as loaded:
            if self.decodes_in_tiles:
                return vae.decode_tiled(sampled, loaded, 512, 64, lambda done, count: None, self.warn)
            return vae.decode(sampled, loaded, warn=self.warn)

    def _sampled(self, latent: Tensor, part: Part, size: tuple[int, int], index: int, total: int) -> Tensor:
        sides = {
            "positive": redraw.conditioning(self.positive, part, *size),
            "negative": redraw.conditioning(self.negative, part, *size),
        }
        room = unet.working_bytes(latent.shape)

        def on_step(info: StepInfo) -> None:
            share = index * _SHARES + info.step * _SHARES // info.total
            self.progress(share, total * _SHARES, lambda: preview(info.denoised))

        with self.store.lease(self.model, working_bytes=room) as loaded, leases.leases(self.store, room) as beside:
            preview = unet.previewer(loaded, self.store)
            denoiser = unet.denoiser(loaded, beside)
            callbacks, given = Callbacks(on_step), {"samples": latent}
            settings = replace(self.settings, denoise=part.denoise)
            result: dict[str, Any]
            if self.way is None:
                result = sample_latent(
                    denoiser, settings, sides["positive"], sides["negative"], given, callbacks=callbacks
                )
            else:
                guider = custom.guider("cfg", self.model, sides, scale=settings.cfg)
                noise, device = custom.noise(settings.seed), settings.noise_device
                sampler, sigmas = self.way
                result = custom.sample(
                    denoiser, sampler, sigmas, noise, guider, given, noise_device=device, callbacks=callbacks
                )[0]
        return result["samples"]  # type: ignore[no-any-return]
