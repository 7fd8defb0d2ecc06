"""The decoder's last training, on pictures of the full size, with a little noise on their latents.

The encoder stays as it is, and with it all that the denoiser has learned.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import nn

from training.config import PolishRecipe
from training.steps import Average, Meter, cosine
from training.vae import SCALE, picture_loss, psnr, sketches, to_latents


def polish(vae: AutoencoderKL, recipe: PolishRecipe, path: Path) -> None:
    """Train the decoder and save the whole autoencoder with averaged weights to `path`."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for weight in trained:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average, meter = Average(vae, recipe.decay), Meter("polish", every=50)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * cosine(step, recipe.steps, warm=50, floor=0.03)
        pictures = sketches(recipe.batch, recipe.side, generator)
        latents = to_latents(vae, pictures)
        strength = recipe.noise * torch.rand(recipe.batch, 1, 1, 1, generator=generator)
        made = vae.decode((latents + strength * torch.randn(latents.shape, generator=generator)) / SCALE).sample
        loss = picture_loss(made, pictures, recipe.edge)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        meter.note(loss=loss.item(), db=psnr(made.detach(), pictures))
    average.apply()
    torch.save(vae.state_dict(), path)
