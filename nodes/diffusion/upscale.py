"""Pictures through a leased upscaler, in tiles where that does them no harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from engine.errors import InputError, ResourceError, is_out_of_memory
from nodes.diffusion.configs import UpscalerConfig
from nodes.diffusion.devices import free_memory, release_unused
from nodes.diffusion.resize import MAX_SIDE
from nodes.diffusion.store import LoadedModel
from nodes.diffusion.tiles import OnTile, Tiling, tile_count, tiled

Warn = Callable[[str], None]

TILE: Final = 512
"""Pixels along the side of a tile, where memory is not short."""
LEAST: Final = 64
"""No tile is smaller, if the network does not ask for larger ones anyway."""
OVERLAP: Final = 48
"""Pixels that neighbouring tiles share: a third on either side is not used, over the rest one fades into the other."""
GRID: Final = 16
"""Tiles start at multiples of it, so that networks that look through windows have theirs where they have them in the whole picture."""

FACES: Final = "FaceSR"
"""The purpose of networks that restore faces, which fill pictures of 512 x 512 pixels."""
_NO_FACE: Final = (
    "{} restores a face that fills a picture of 512 x 512 pixels, and was shown one of {} x {}; FaceRestoreCFWithModel finds the faces "
    "in a picture and restores each"
)

_CHANNELS: Final = 192
_LEAST_CHANNELS: Final = 2048
"""Numbers that are taken to be in memory at once for a pixel of the result, and at least for one of the given picture: estimated by hand
from the widths of usual networks, not measured. Tiles that do not fit after all are halved."""


def working_bytes(shape: Sequence[int], scale: int, itemsize: int = 4) -> int:
    """Memory in bytes that a tile of pictures [B,H,W,C] takes beside the weights of an upscaler of ``scale``."""
    return _needed(min(shape[1], TILE), min(shape[2], TILE), scale, itemsize)


def _needed(height: int, width: int, scale: int, itemsize: int) -> int:
    return height * width * max(_CHANNELS * scale**2, _LEAST_CHANNELS) * itemsize


@torch.inference_mode()
def upscaled(pictures: Tensor, model: LoadedModel, on_tile: OnTile, warn: Warn) -> Tensor:
    """Pictures as the upscaler makes them.

    Args:
        pictures: [B,H,W,C] in 0..1, C of 1 to 4; the last of 2 or 4 channels is alpha, which goes through the network as a grey picture.
        model: a leased upscaler. One that takes one channel is run on each colour.
        on_tile: told after every tile.
        warn: told when a network that should see the whole picture was shown tiles, and when one that restores faces was shown something
            of another size than theirs.

    Returns:
        float32 [B,H*scale,W*scale,C] on the CPU; three channels for one where a network makes colours of grey.

    Raises:
        InputError: pictures of other channels, a result of more than ``resize.MAX_SIDE`` pixels a side, or numbers that are none.
        ResourceError: not even the smallest tile fits into memory.
    """
    config = model.config
    assert isinstance(config, UpscalerConfig)
    _check(pictures, config)
    if config.purpose == FACES and tuple(pictures.shape[1:3]) != (TILE, TILE):
        warn(_NO_FACE.format(config.architecture, pictures.shape[2], pictures.shape[1]))
    sheets = _sheets(pictures.movedim(-1, 1).float(), config)
    work = _Work(model, config, on_tile, warn, total=sum(len(sheet) for sheet in sheets))
    made = [torch.cat([work.picture(one) for one in sheet.split(1)]) for sheet in sheets]
    return _joined(made, pictures.shape, config).movedim(1, -1).contiguous()


def _check(pictures: Tensor, config: UpscalerConfig) -> None:
    _, height, width, channels = pictures.shape
    if not (height and width) or channels not in (1, 2, 3, 4):
        raise InputError(
            f"expected pictures of 1 to 4 channels, found {width} x {height} pixels of {channels} channels",
            input="image",
        )
    if max(height, width) * config.scale > MAX_SIDE:
        raise InputError(
            f"expected a result of at most {MAX_SIDE} pixels a side, found {width} x {height} times {config.scale}; "
            "scale the picture down first",
            input="image",
        )
    if config.in_channels not in (1, 3, 4):
        raise InputError(
            f"expected an upscaler of 1, 3 or 4 channels, found one of {config.in_channels} ({config.architecture})",
            input="upscale_model",
        )


def _sheets(pictures: Tensor, config: UpscalerConfig) -> list[Tensor]:
    """What goes through the network for pictures [B,C,H,W]: their colours, and their alpha on its own."""
    channels = pictures.shape[1]
    has_alpha = channels in (2, 4)
    colours, alpha = (pictures[:, :-1], pictures[:, -1:]) if has_alpha else (pictures, None)
    if config.in_channels == 4:
        full = torch.ones_like(colours[:, :1]) if alpha is None else alpha
        return [torch.cat([colours.expand(-1, 3, -1, -1), full], 1)]
    grey = [] if alpha is None else [alpha.expand(-1, config.in_channels, -1, -1)]
    if config.in_channels == 3:
        return [colours.expand(-1, 3, -1, -1), *grey]
    if config.out_channels == 1:
        return [colours.flatten(0, 1)[:, None], *grey]
    return [colours.mean(1, keepdim=True), *grey]


def _joined(made: list[Tensor], shape: Sequence[int], config: UpscalerConfig) -> Tensor:
    """The pictures [B,C,H,W] that ``_sheets`` of pictures [B,h,w,c] have become."""
    count, _, _, channels = shape
    if config.in_channels == 4:
        colours = made[0][:, :3] if channels > 2 else made[0][:, :3].mean(1, keepdim=True)
        return torch.cat([colours, made[0][:, 3:]], 1) if channels in (2, 4) and made[0].shape[1] > 3 else colours
    colours = made[0]
    if config.in_channels == 1 and config.out_channels == 1:
        colours = colours.reshape(count, -1, *colours.shape[-2:])
    elif config.in_channels == 3 and channels in (1, 2):
        colours = colours.mean(1, keepdim=True)
    elif colours.shape[1] == 1:
        colours = colours.expand(-1, 3, -1, -1)
    return torch.cat([colours, made[1].mean(1, keepdim=True)], 1) if len(made) > 1 else colours


@dataclass(slots=True)
class _Work:
    """An upscaler at work on ``total`` pictures; ``side`` is that of its tiles, once it is known."""

    model: LoadedModel
    config: UpscalerConfig
    on_tile: OnTile
    warn: Warn
    total: int
    side: int | None = None
    _finished: int = 0
    _warned: bool = field(default=False)

    def picture(self, one: Tensor) -> Tensor:
        """``one`` [1,C,H,W], upscaled; the next ones take tiles of the same side."""
        side = self.side or self._first_side(one)
        while True:
            try:
                result = self._in_tiles(one, side)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                side = self._smaller(side, one, error)
            else:
                self.side = side
                self._finished += 1
                return result

    @property
    def _least(self) -> int:
        return _up(max(LEAST, self.config.minimum), self.config.multiple)

    def _first_side(self, one: Tensor) -> int:
        """As large as it is good for the network, and as there is memory for."""
        whole = _up(max(one.shape[-2:]), self.config.multiple)
        side = max(_up(TILE, self.config.multiple), self._least)
        if self.config.tiling != "fine":
            side = max(side, whole)
        free = free_memory(self.model.device)
        while side > self._least and self.config.tiling != "internal" and self._needed(one, side) > free:
            side = self._halved(side)
        return side

    def _needed(self, one: Tensor, side: int) -> int:
        height, width = (min(it, side) for it in one.shape[-2:])
        return _needed(height, width, self.config.scale, self.model.dtype.itemsize)

    def _halved(self, side: int) -> int:
        return max(self._least, side // 2 // self.config.multiple * self.config.multiple)

    def _smaller(self, side: int, one: Tensor, error: Exception) -> int:
        release_unused(self.model.device)
        taken = min(side, max(one.shape[-2:]))
        smaller = self._halved(taken)
        if self.config.tiling == "internal" or smaller >= taken:
            raise ResourceError(
                f"expected room for {taken} x {taken} pixels at once, found too little; free memory or give a smaller picture"
            ) from error
        return smaller

    def _in_tiles(self, one: Tensor, side: int) -> Tensor:
        scale = self.config.scale
        overlap = OVERLAP if side >= 2 * OVERLAP else side // 2
        tiling = Tiling(side, overlap, grow=scale, grid=_grid(self.config.multiple, side, overlap))
        count = tile_count(one, tiling)
        if count > 1 and self.config.tiling != "fine" and not self._warned:
            self._warned = True
            self.warn(
                f"expected room for the whole picture, which {self.config.architecture} should see at once, found too little; "
                f"it works in tiles of {side} pixels, whose edges may be seen"
            )
        done = self._finished * count

        def run(tile: Tensor) -> Tensor:
            nonlocal done
            result = self._tile(tile)
            done += 1
            self.on_tile(done, self.total * count)
            return result

        return tiled(one, run, tiling)

    def _tile(self, tile: Tensor) -> Tensor:
        result: Tensor = self.model.module(tile.to(self.model.device, self.model.dtype).contiguous())
        if not bool(result.isfinite().all()):
            raise InputError(
                f"{self.config.architecture} gave numbers that are none in {str(self.model.dtype).removeprefix('torch.')}; "
                "run the model in float32",
                input="upscale_model",
            )
        return result.float().cpu()


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _grid(multiple: int, side: int, overlap: int) -> int:
    """Where tiles may start: such that there is room for steps between them."""
    return max(multiple, GRID) if side - overlap >= max(multiple, GRID) else multiple
