"""Pictures to latents and back, with a leased autoencoder.

Latents are unscaled: the scale factor belongs to the UNet's side. A batch is worked off in pieces that fit into memory; a
picture that does not fit even alone is done in tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch import Tensor

from engine.errors import InputError, ModelFileError, ResourceError, is_out_of_memory
from engine.fileref import PIXEL_SPACE
from engine.models import Digest, ModelRef
from nodes.diffusion import layered
from nodes.diffusion.configs import AnyVae, FamilyName, TinyVaeConfig, VaeConfig
from nodes.diffusion.devices import free_memory, release_unused
from nodes.diffusion.family import FAMILIES
from nodes.diffusion.sources import Source
from nodes.diffusion.store import COMPUTE_DTYPE, LoadedModel
from nodes.diffusion.tiles import OnTile, Tiling, tile_count, tiled

Warn = Callable[[str], None]

FAMILY: Final = "family"
"""Setting of a recipe: whose latents a tiny VAE is for, where its file does not say."""

TILE: Final = 64
"""Side of a tile in latent cells."""
OVERLAP: Final = 16
"""Latent cells that neighbouring tiles share and fade over."""

_LAYERS_ALIVE: Final = 8
"""Activations of the widest layer that are in memory at once, with what a convolution works on; measured, rounded up."""


def _silent(message: str) -> None:
    del message


def working_bytes(vae: AnyVae, height: int, width: int, dtype: torch.dtype) -> int:
    """Memory in bytes that one picture of ``height`` x ``width`` pixels takes beside the weights."""
    return vae.widest * height * width * dtype.itemsize * _LAYERS_ALIVE


@torch.inference_mode()
def decode(samples: Tensor, vae: LoadedModel, *, warn: Warn = _silent) -> Tensor:
    """Pictures of latents.

    Args:
        samples: unscaled latents [B, C, h, w].
        vae: a leased autoencoder.
        warn: told when memory was too small and tiles were used.

    Returns:
        float32 [B, h * 8, w * 8, 3] in 0..1 on the CPU, a tiny VAE's factor in place of 8.

    Raises:
        InputError: the latents have another number of channels than the autoencoder's.
        ResourceError: not even tiles fit into memory.
    """
    config = _config(vae)
    _check_latents(samples, config)
    run = _decoder(vae)
    pixels = samples.shape[-2] * config.downscale, samples.shape[-1] * config.downscale
    pictures = _in_pieces(samples, run, vae, working_bytes(config, *pixels, vae.dtype), config.downscale, 1, warn)
    return pictures.movedim(1, -1).contiguous()


@torch.inference_mode()
def encode(pictures: Tensor, vae: LoadedModel, *, warn: Warn = _silent) -> Tensor:
    """Latents of pictures: the mode of the distribution the encoder gives, unscaled.

    Args:
        pictures: [B, H, W, C] in 0..1; channels beyond the third are left out, a single one is taken as grey.
        vae: a leased autoencoder.
        warn: told when memory was too small and tiles were used.

    Returns:
        float32 [B, C, H // 8, W // 8] on the CPU; what is beyond a multiple of 8 pixels is cropped on all sides alike.

    Raises:
        InputError: the pictures are smaller than one latent cell.
        ResourceError: not even tiles fit into memory.
    """
    config = _config(vae)
    pixels = _pixels(pictures, vae)
    need = working_bytes(config, pixels.shape[-2], pixels.shape[-1], vae.dtype)
    return _in_pieces(pixels, _encoder(vae), vae, need, 1, config.downscale, warn)


def _check_latents(samples: Tensor, config: AnyVae) -> None:
    if samples.ndim != 4 or samples.shape[1] != config.latent_channels:
        raise InputError(
            f"expected latents of shape [batch, {config.latent_channels}, height, width], found {list(samples.shape)}; "
            "use the VAE they were made for",
            input="samples",
        )


def _pixels(pictures: Tensor, vae: LoadedModel) -> Tensor:
    """[B, H, W, C] as [B, 3, H', W'] that the encoder takes."""
    pixels = centre_crop(pictures[..., :3], _config(vae).downscale).movedim(-1, 1)
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels


def decoded(vae: LoadedModel, latents: Tensor) -> Tensor:
    """Pictures [B,3,H,W], about -1..1, of unscaled latents [B,C,h,w], in the VAE's dtype on its device."""
    if isinstance(vae.config, TinyVaeConfig):
        scale, shift = scaling(vae.ref, vae.config)
        latents = (latents.to(vae.device, torch.float32) - shift) * scale
    module: Any = vae.module
    pictures: Tensor = module.decode(latents.to(vae.device, vae.dtype), return_dict=False)[0]
    return pictures


def scaling(ref: ModelRef, config: TinyVaeConfig) -> tuple[float, float]:
    """Scale and shift of a tiny VAE's latents: those of the family that the recipe names, else those that are read off the file."""
    name = ref.setting(FAMILY)
    if name is None:
        return config.scale_factor, config.shift
    family = FAMILIES[cast(FamilyName, name)]
    return family.scale, family.shift


def check_tiny(source: Source, name: str, family: str) -> None:
    """Raise ModelFileError where the VAE of ``source`` has not the channels of ``family``."""
    config, wanted = source.part("vae").config, FAMILIES[cast(FamilyName, family)].channels
    if isinstance(config, TinyVaeConfig) and config.latent_channels != wanted:
        raise ModelFileError(
            f"expected {name}, a tiny VAE of {wanted} latent channels, found one of {config.latent_channels}"
        )


def pixel_space() -> ModelRef:
    """The recipe of the VAE whose latents are the pictures themselves; in float32, so that they come back as they were."""
    ref = ModelRef(source=Digest(PIXEL_SPACE), part="vae", location=PIXEL_SPACE)
    return ref.with_settings(**{COMPUTE_DTYPE: "fp32"})


def guessed_scale(source: Source) -> str | None:
    """What a tiny VAE's scale is taken for, where nothing tells."""
    config = source.part("vae").config
    if not isinstance(config, TinyVaeConfig) or config.is_scale_told:
        return None
    return (
        f"it is taken for that of {source.description.family.title}. For others, put its halves as taesdxl_encoder and "
        "taesdxl_decoder into models/vae_approx and choose taesdxl"
    )


def _decoder(vae: LoadedModel) -> Callable[[Tensor], Tensor]:
    def run(latents: Tensor) -> Tensor:
        return (decoded(vae, latents).float() / 2 + 0.5).clamp(0, 1).cpu()

    return run


def _encoder(vae: LoadedModel) -> Callable[[Tensor], Tensor]:
    def run(pixels: Tensor) -> Tensor:
        scaled = pixels.to(vae.device, torch.float32) * 2 - 1
        module: Any = vae.module
        found = module.encode(scaled.to(vae.dtype), return_dict=False)[0]
        if isinstance(vae.config, VaeConfig):
            return found.mode().float().cpu()  # type: ignore[no-any-return]
        scale, shift = scaling(vae.ref, vae.config) if isinstance(vae.config, TinyVaeConfig) else (1.0, 0.0)
        return (found.float() / scale + shift).cpu()  # type: ignore[no-any-return]

    return run


@torch.inference_mode()
def decode_tiled(
    samples: Tensor, vae: LoadedModel, tile: int, overlap: int, on_tile: OnTile, warn: Warn = _silent
) -> Tensor:
    """As ``decode``, with no more on the device at a time than a tile of ``tile`` pixels a side takes.

    Layer by layer, see ``nodes.diffusion.layered``: the picture is that of ``decode``. Where main memory has no room for whole layers, each
    tile goes through all of them at once, and fades into the next over ``overlap`` pixels, of more than a quarter of a tile that much; then
    colours differ, because the networks normalise by what a tile shows, which ``warn`` is told.
    """
    config = _config(vae)
    _check_latents(samples, config)
    grow = config.downscale
    tiling = Tiling(max(1, tile // grow), min(overlap, tile // 4) // grow, grow, 1)
    return _each_tiled(samples, vae, _decoder(vae), tiling, on_tile, warn).movedim(1, -1).contiguous()


@torch.inference_mode()
def encode_tiled(
    pictures: Tensor, vae: LoadedModel, tile: int, overlap: int, on_tile: OnTile, warn: Warn = _silent
) -> Tensor:
    """As ``encode``, in tiles of ``tile`` pixels a side; see ``decode_tiled``."""
    shrink = _config(vae).downscale
    cells = max(1, tile // shrink)
    shared = min(overlap, tile // 4) // shrink
    tiling = Tiling(cells * shrink, shared * shrink, 1, shrink)
    return _each_tiled(_pixels(pictures, vae), vae, _encoder(vae), tiling, on_tile, warn)


def _each_tiled(
    batch: Tensor, vae: LoadedModel, run: Callable[[Tensor], Tensor], tiling: Tiling, on_tile: OnTile, warn: Warn
) -> Tensor:
    if max(batch.shape[-2:]) > tiling.tile and _by_layers(batch, vae, tiling.grow, warn):
        return _layered(batch, vae, tiling, on_tile)
    total, done = tile_count(batch, tiling), 0

    def counted(tile: Tensor) -> Tensor:
        nonlocal done
        result = run(tile)
        done += 1
        on_tile(done, total)
        return result

    return torch.cat([tiled(one, counted, tiling) for one in batch.split(1)])


def _by_layers(batch: Tensor, vae: LoadedModel, grow: int, warn: Warn) -> bool:
    """Whether the network can be run layer by layer."""
    if not isinstance(vae.config, VaeConfig) or not layered.is_known(vae.module):
        return False
    pixels = batch.shape[-2] * batch.shape[-1] * grow**2
    need = layered.MAPS * _config(vae).widest * pixels * vae.dtype.itemsize
    free = free_memory(torch.device("cpu"))
    if need > free:
        warn(
            f"expected {need >> 20} MiB of main memory for whole layers of the VAE, found {free >> 20}; "
            "every tile is normalised by itself, and colours may differ from tile to tile"
        )
    return need <= free


def _layered(batch: Tensor, vae: LoadedModel, tiling: Tiling, on_tile: OnTile) -> Tensor:
    """All pictures, layer by layer."""
    module: Any = vae.module
    config = _config(vae)
    assert isinstance(config, VaeConfig)
    decodes = tiling.grow > 1
    half, quant = (module.decoder, module.post_quant_conv) if decodes else (module.encoder, module.quant_conv)
    each = layered.layer_count(half, quant)
    numbers = config.widest * (tiling.tile * tiling.grow) ** 2

    def made(index: int, one: Tensor) -> Tensor:
        layers = layered.Layers(
            vae.device,
            vae.dtype,
            config.norm_groups,
            numbers,
            lambda done: on_tile(index * each + done, len(batch) * each),
        )
        if decodes:
            return (layers.decode(module, one).float() / 2 + 0.5).clamp(0, 1)
        return layers.encode(module, one.float() * 2 - 1).float().chunk(2, 1)[0]

    return torch.cat([made(index, one) for index, one in enumerate(batch.split(1))])


def downscale(vae: LoadedModel) -> int:
    """Pixels along the side of one latent cell."""
    return _config(vae).downscale


def centre_crop(pictures: Tensor, multiple: int) -> Tensor:
    """[B, H, W, C] cropped to sides that are multiples of ``multiple``, as much on either side."""
    height, width = (side - side % multiple for side in pictures.shape[1:3])
    if not height or not width:
        raise InputError(
            f"expected a picture of at least {multiple} x {multiple} pixels, "
            f"found {pictures.shape[2]} x {pictures.shape[1]}",
            input="pixels",
        )
    top, left = (pictures.shape[1] - height) // 2, (pictures.shape[2] - width) // 2
    return pictures[:, top : top + height, left : left + width]


def _config(vae: LoadedModel) -> AnyVae:
    assert isinstance(vae.config, AnyVae)
    return vae.config


def _in_pieces(
    batch: Tensor, run: Callable[[Tensor], Tensor], vae: LoadedModel, need: int, grow: int, shrink: int, warn: Warn
) -> Tensor:
    """``run`` over as many of ``batch`` at a time as fit; over tiles when one alone does not."""
    at_once = max(1, free_memory(vae.device) // max(need, 1))
    try:
        return torch.cat([run(piece) for piece in batch.split(at_once)])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        size = f"{batch.shape[-1] * grow} x {batch.shape[-2] * grow}"
    release_unused(vae.device)
    warn(f"expected room for a picture of {size} pixels at once, found too little; the VAE works in tiles, slower")
    tiling = Tiling(TILE * shrink, OVERLAP * shrink, grow, shrink)
    try:
        return _each_tiled(batch, vae, run, tiling, lambda done, total: None, warn)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(f"expected room for one tile of a {size} picture, found too little; free memory") from error
