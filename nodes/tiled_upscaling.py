"""Pictures larger than a model knows: sampled tile by tile, or in windows whose average every step takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.models import ModelRef
from engine.run.context import NodeContext
from engine.spec import Optional, Output, Range, node
from nodes import diffusion
from nodes.sampling import SamplerName, SchedulerName
from nodes.sockets import Conditioning, Image, Model, Sampler, Sigmas, Tensor, UpscaleModel, Vae
from nodes.widgets import SeedInt

if TYPE_CHECKING:
    from nodes.diffusion.redraw import Plan

CATEGORY = "image/upscaling"
MAX_SIDE = 8192

Factor = Annotated[float, Range(0.05, 4.0, step=0.05)]
Steps = Annotated[int, Range(1, 10_000, step=1)]
Cfg = Annotated[float, Range(0.0, 100.0)]
Denoise = Annotated[float, Range(0.0, 1.0, step=0.01)]
Order = Literal["Linear", "Chess", "None"]
Side = Annotated[int, Range(64, MAX_SIDE, step=8)]
Blur = Annotated[int, Range(0, 64, step=1)]
Padding = Annotated[int, Range(0, MAX_SIDE, step=8)]
SeamFix = Literal["None", "Band Pass", "Half Tile", "Half Tile + Intersections"]
Uniform = Annotated[bool, Optional()]
TiledDecode = Annotated[bool, Optional()]
Batch = Annotated[int, Range(1, 16, step=1), Optional()]


@node("TiledDiffusion", title="Tiled Diffusion", category="_for_testing", outputs=[Output("MODEL")])
def tiled_diffusion(
    *,
    model: Model,
    method: Literal["MultiDiffusion", "Mixture of Diffusers", "SpotDiffusion"] = "Mixture of Diffusers",
    tile_width: Annotated[int, Range(16, MAX_SIDE, step=16)] = 768,
    tile_height: Annotated[int, Range(16, MAX_SIDE, step=16)] = 768,
    tile_overlap: Annotated[int, Range(0, 2048, step=32)] = 64,
    tile_batch_size: Annotated[int, Range(1, MAX_SIDE, step=1)] = 4,
) -> ModelRef:
    """A model that sees a large picture in windows of so many pixels; every step takes the average of what it says of them."""
    return diffusion.tiled_diffusion.with_windows(
        model, method, width=tile_width, height=tile_height, overlap=tile_overlap, at_once=tile_batch_size
    )


def _plan(given: dict[str, Any]) -> Plan:
    seams = diffusion.redraw.Seams(
        mode=given["seam_fix_mode"],
        denoise=given["seam_fix_denoise"],
        width=given["seam_fix_width"],
        mask_blur=given["seam_fix_mask_blur"],
        padding=given["seam_fix_padding"],
    )
    return diffusion.redraw.Plan(
        width=given["tile_width"],
        height=given["tile_height"],
        order=given["mode_type"],
        denoise=given["denoise"],
        mask_blur=given["mask_blur"],
        padding=given["tile_padding"],
        uniform=given["force_uniform_tiles"],
        seams=seams,
    )


def _redrawn(ctx: NodeContext, picture: Tensor, given: dict[str, Any]) -> Tensor:
    """``picture`` as large as it is, painted anew by the other inputs of a node."""
    if given["batch_size"] > 1:
        ctx.warn(f"tiles are sampled one by one; batch_size {given['batch_size']} is left out of account")
    sampler, sigmas = given.get("custom_sampler"), given.get("custom_sigmas")
    settings = diffusion.sample.Settings(
        seed=given["seed"],
        steps=given["steps"],
        cfg=given["cfg"],
        sampler=given["sampler_name"],
        scheduler=given["scheduler"],
        noise_device=diffusion.unet.noise_device(ctx.settings),
    )
    painter = diffusion.redraw_sampling.Painter(
        store=ctx.models,
        model=given["model"],
        vae=given["vae"],
        positive=given["positive"],
        negative=given["negative"],
        settings=settings,
        progress=ctx.progress,
        warn=ctx.warn,
        way=None if sampler is None or sigmas is None else (sampler, sigmas),
        decodes_in_tiles=given["tiled_decode"],
    )
    return painter.redrawn(picture, _plan(given))


def _enlarged(ctx: NodeContext, image: Tensor, by: float, upscaler: ModelRef | None) -> Tensor:
    """``image``, ``by`` times as large in whole latent cells: through an upscaler if there is one, and brought to that size by Lanczos."""
    height, width = diffusion.redraw.target_size(image.shape[1], image.shape[2], by)
    if upscaler is not None:
        room = diffusion.upscale.working_bytes(image.shape, diffusion.upscalers.scale_of(upscaler))
        with ctx.models.lease(upscaler, working_bytes=room) as loaded:
            image = diffusion.upscale.upscaled(image, loaded, lambda done, total: ctx.check_cancelled(), ctx.warn)
    if tuple(image.shape[1:3]) == (height, width):
        return image
    return diffusion.pictures.scale(image, width, height, "lanczos")


@node("UltimateSDUpscale", title="Ultimate SD Upscale", category=CATEGORY, outputs=[Output("IMAGE")])
def ultimate_sd_upscale(
    ctx: NodeContext,
    *,
    image: Image,
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    upscale_by: Factor = 2.0,
    seed: SeedInt = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    denoise: Denoise = 0.2,
    upscale_model: UpscaleModel,
    mode_type: Order,
    tile_width: Side = 512,
    tile_height: Side = 512,
    mask_blur: Blur = 8,
    tile_padding: Padding = 32,
    seam_fix_mode: SeamFix,
    seam_fix_denoise: Denoise = 1.0,
    seam_fix_width: Padding = 64,
    seam_fix_mask_blur: Blur = 8,
    seam_fix_padding: Padding = 16,
    force_uniform_tiles: Uniform = True,
    tiled_decode: TiledDecode = False,
    batch_size: Batch = 1,
) -> Tensor:
    """A picture made larger by an upscaler, then painted anew tile by tile: details that a model of small pictures can make."""
    given = locals()
    return _redrawn(ctx, _enlarged(ctx, image, upscale_by, upscale_model), given)


@node(
    "UltimateSDUpscaleNoUpscale",
    title="Ultimate SD Upscale (No Upscale)",
    category=CATEGORY,
    outputs=[Output("IMAGE")],
)
def ultimate_sd_upscale_no_upscale(
    ctx: NodeContext,
    *,
    upscaled_image: Image,
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    seed: SeedInt = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    denoise: Denoise = 0.2,
    mode_type: Order,
    tile_width: Side = 512,
    tile_height: Side = 512,
    mask_blur: Blur = 8,
    tile_padding: Padding = 32,
    seam_fix_mode: SeamFix,
    seam_fix_denoise: Denoise = 1.0,
    seam_fix_width: Padding = 64,
    seam_fix_mask_blur: Blur = 8,
    seam_fix_padding: Padding = 16,
    force_uniform_tiles: Uniform = True,
    tiled_decode: TiledDecode = False,
    batch_size: Batch = 1,
) -> Tensor:
    """A large picture painted anew tile by tile."""
    return _redrawn(ctx, upscaled_image, locals())


@node(
    "UltimateSDUpscaleCustomSample",
    title="Ultimate SD Upscale (Custom Sample)",
    category=CATEGORY,
    outputs=[Output("IMAGE")],
)
def ultimate_sd_upscale_custom_sample(
    ctx: NodeContext,
    *,
    image: Image,
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    upscale_by: Factor = 2.0,
    seed: SeedInt = 0,
    steps: Steps = 20,
    cfg: Cfg = 8.0,
    sampler_name: SamplerName,
    scheduler: SchedulerName,
    denoise: Denoise = 0.2,
    mode_type: Order,
    tile_width: Side = 512,
    tile_height: Side = 512,
    mask_blur: Blur = 8,
    tile_padding: Padding = 32,
    seam_fix_mode: SeamFix,
    seam_fix_denoise: Denoise = 1.0,
    seam_fix_width: Padding = 64,
    seam_fix_mask_blur: Blur = 8,
    seam_fix_padding: Padding = 16,
    force_uniform_tiles: Uniform = True,
    tiled_decode: TiledDecode = False,
    batch_size: Batch = 1,
    upscale_model: UpscaleModel | None = None,
    custom_sampler: Sampler | None = None,
    custom_sigmas: Sigmas | None = None,
) -> Tensor:
    """As UltimateSDUpscale, with a sampler and sigmas of one's own, if both are given; without an upscaler by Lanczos."""
    given = locals()
    return _redrawn(ctx, _enlarged(ctx, image, upscale_by, upscale_model), given)
