"""The autoencoder: pictures to latents an eighth as wide, and back.

Two trainings. First encoder and decoder together, with noise on the latents, so that the code survives what a denoiser
gets wrong. At the end the decoder alone, on pictures of the full size (see polish.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from training.config import VaeRecipe
from training.steps import Average, Meter, cosine
from training.world import COMBOS, Scenes, blend, coverage, draw_scenes, render

SCALE = 0.18215
CHANNELS = 4
FACTOR = 8
WIDTHS = (64, 64, 64, 64)
GROUPS = 32


def make_vae() -> AutoencoderKL:
    """Stable Diffusion's autoencoder, 64 wide: two channels in each of its 32 norm groups, fewer would lose flat colours."""
    return AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
        up_block_types=("UpDecoderBlock2D",) * len(WIDTHS),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=GROUPS,
        scaling_factor=SCALE,
    ).to(memory_format=torch.channels_last)


@torch.no_grad()
def start_near_identity(vae: AutoencoderKL) -> None:
    """Residual branches start at zero, up-samplers near the identity, down-samplers as a rotation of each 2x2 square.

    A deep narrow stack learns to copy in hundreds of steps from here, and in tens of thousands from random weights.
    """
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            _zero(module.conv2)
        elif isinstance(module, Attention):
            _zero(module.to_out[0])
        elif isinstance(module, Upsample2D):
            weight = module.conv.weight.mul_(0.1)
            weight[:, :, 1, 1] += torch.eye(len(weight))
            module.conv.bias.zero_()
        elif isinstance(module, Downsample2D):
            weight = module.conv.weight.mul_(0.1)
            rotation = nn.init.orthogonal_(torch.empty(weight.shape[0], weight.shape[1] * 4))
            weight[:, :, :2, :2] += rotation.view(weight.shape[0], weight.shape[1], 2, 2)
            module.conv.bias.zero_()


def _zero(module: nn.Conv2d | nn.Linear) -> None:
    assert module.bias is not None
    module.weight.zero_()
    module.bias.zero_()


@torch.no_grad()
def start_at_unit_scale(vae: AutoencoderKL, generator: torch.Generator) -> None:
    """Scale the encoder's outputs to spread 1, and its unused variances to nearly nothing."""
    spread = vae.encode(sketches(64, 32, generator)).latent_dist.mean.std((0, 2, 3))
    vae.quant_conv.weight[:CHANNELS] /= spread.view(-1, 1, 1, 1)
    vae.quant_conv.bias[:CHANNELS] = 0
    vae.quant_conv.weight[CHANNELS:] = 0
    vae.quant_conv.bias[CHANNELS:] = -6


def sketches(count: int, side: int, generator: torch.Generator) -> Tensor:
    """(N, 3, side, side) pictures for the autoencoder: scenes of the world, a third of them with any colours,
    any position and size and a second shape on top, so that it can also carry what the captions do not cover."""
    scenes = draw_scenes(count, generator, COMBOS, placed=0.3, sized=0.3)
    pictures = render(scenes, side)
    loose = (torch.rand(count, generator=generator) < 1 / 3).nonzero().flatten()
    if len(loose):
        colours = torch.rand(3, len(loose), 3, generator=generator) * 2 - 1
        wild = colours[0][:, :, None, None].expand(-1, -1, side, side)
        for ink in colours[1:]:
            wild = blend(wild, ink, coverage(_anywhere(len(loose), generator), side))
        pictures[loose] = wild
    return pictures.contiguous(memory_format=torch.channels_last)


def _anywhere(count: int, generator: torch.Generator) -> Scenes:
    scenes = draw_scenes(count, generator, COMBOS)
    radius = 0.15 + 1.1 * torch.rand(count, generator=generator)
    centre = torch.rand(count, 2, generator=generator) * 2 - 1
    return Scenes.unnamed(scenes.combo, centre, radius)


def edges(difference: Tensor) -> Tensor:
    """Mean absolute slope of a (N, C, H, W) difference, across and down: what blurred outlines pay for."""
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def picture_loss(made: Tensor, wanted: Tensor, edge_weight: float) -> Tensor:
    """Absolute and squared difference, and the difference in slopes."""
    difference = made.float() - wanted
    return difference.abs().mean() + difference.square().mean() + edge_weight * edges(difference)


def psnr(made: Tensor, wanted: Tensor) -> float:
    """Peak signal to noise in dB for pictures in [-1, 1]."""
    return 10 * math.log10(4 / (made.float().clamp(-1, 1) - wanted).square().mean().item())


def _centring(latents: Tensor) -> Tensor:
    """How far each channel is from mean 0 and spread 1: this takes the place of a KL term."""
    return (latents.std((0, 2, 3)) - 1).square().mean() + latents.mean((0, 2, 3)).square().mean()


def _batches(recipe: VaeRecipe, generator: torch.Generator) -> Iterator[Tensor]:
    for phase in recipe.phases:
        for _ in range(phase.steps):
            yield sketches(phase.batch, phase.side, generator)


def train_vae(recipe: VaeRecipe, path: Path) -> None:
    """Train from nothing and save a whitened autoencoder's averaged weights to `path`."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    vae = make_vae()
    start_near_identity(vae)
    start_at_unit_scale(vae, generator)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    total = sum(phase.steps for phase in recipe.phases)
    average, meter = Average(vae, recipe.decay), Meter("vae", every=100)
    for step, pictures in enumerate(_batches(recipe, generator)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * cosine(step, total, warm=60, floor=0.03)
        latents = vae.encode(pictures).latent_dist.mean
        strength = recipe.noise * torch.rand(len(latents), 1, 1, 1)
        made = vae.decode(latents + strength * torch.randn_like(latents)).sample
        loss = picture_loss(made, pictures, recipe.edge) + 0.05 * _centring(latents)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        meter.note(loss=loss.item(), db=psnr(made.detach(), pictures))
    average.apply()
    whiten(vae, generator, recipe.whiten_side)
    torch.save(vae.state_dict(), path)


@torch.no_grad()
def whiten(vae: AutoencoderKL, generator: torch.Generator, side: int) -> None:
    """Fold a change of basis into the 1x1 convolutions on both sides of the latents.

    After it, latents times SCALE have mean 0 and the unit matrix as covariance: no channel is easier than another
    for the denoiser, and noise of strength sigma means the same in all of them.
    """
    parts = [vae.encode(render(draw_scenes(16, generator, COMBOS), side)).latent_dist.mean for _ in range(16)]
    values = torch.cat(parts).permute(1, 0, 2, 3).flatten(1).double()
    mean = values.mean(1)
    spread, basis = torch.linalg.eigh(torch.cov(values))
    whitening = basis @ torch.diag(spread**-0.5) @ basis.T / SCALE
    before, after = vae.quant_conv, vae.post_quant_conv
    weight, bias = before.weight.double().flatten(1), before.bias.double()
    weight[:CHANNELS], bias[:CHANNELS] = whitening @ weight[:CHANNELS], whitening @ (bias[:CHANNELS] - mean)
    weight[CHANNELS:], bias[CHANNELS:] = 0, -4
    before.weight.copy_(weight.view_as(before.weight))
    before.bias.copy_(bias)
    weight = after.weight.double().flatten(1)
    after.bias.copy_(after.bias.double() + weight @ mean)
    after.weight.copy_((weight @ torch.linalg.inv(whitening)).view_as(after.weight))


def load_vae(path: Path) -> AutoencoderKL:
    vae = make_vae()
    vae.load_state_dict(torch.load(path))
    return vae.eval().requires_grad_(False)


def to_latents(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """(N, 3, 8h, 8w) pictures to (N, 4, h, w) scaled latents."""
    with torch.no_grad():
        means: Tensor = vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        return means * SCALE


def to_pictures(vae: AutoencoderKL, latents: Tensor, batch: int = 8) -> Tensor:
    """(N, 4, h, w) scaled latents to (N, 3, 8h, 8w) pictures."""
    with torch.no_grad():
        return torch.cat([vae.decode(part / SCALE).sample for part in latents.split(batch)])
