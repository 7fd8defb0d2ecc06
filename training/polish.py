"""The decoder's last training: to draw cleanly what the denoiser means.

The finished denoiser makes drafts for trained captions. The judge reads each off: shape, colours, centre, area. The
ideal picture of exactly that is what the decoder is then taught to make of the draft's latents, so a wobbly outline in
the latents becomes a straight one in the picture. Latents of drawn pictures, with a little noise, keep it honest about
everything else. The encoder stays as it is.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextModel

from training.config import PolishRecipe
from training.grammar import Meaning, prompts
from training.judge import Finding, ideal, look
from training.sample import METHODS, Method, sample
from training.steps import Average, Meter, cosine
from training.text import encode
from training.unet import Unet
from training.vae import SCALE, picture_loss, psnr, sketches, to_latents, to_pictures
from training.world import TRAINED, render, to_bytes


def _usable(found: Finding, meaning: Meaning, recipe: PolishRecipe) -> bool:
    return found.agrees(meaning) and found.overlap >= recipe.least_overlap


def make_drafts(unet: Unet, vae: AutoencoderKL, encoder: CLIPTextModel, recipe: PolishRecipe, path: Path) -> None:
    """Sample drafts in groups of one method and guidance each; save their latents and ideal pictures to `path`."""
    chance = random.Random(recipe.seed)
    nothing = encode(encoder, [""])[0]
    asked = prompts(TRAINED, recipe.drafts, recipe.seed)
    chance.shuffle(asked)
    latents: list[Tensor] = []
    wanted: list[Tensor] = []
    for start in range(0, len(asked), recipe.group):
        group = asked[start : start + recipe.group]
        states = encode(encoder, [text for text, _ in group])
        method: Method = chance.choice(list(METHODS))
        guidance = chance.choice(recipe.guidances)
        drafts = sample(
            unet,
            states,
            nothing,
            width=16,
            seed=recipe.seed + start,
            method=method,
            guidance=guidance,
            steps=recipe.sampling_steps,
        )
        for draft, picture, (_, meaning) in zip(drafts, to_bytes(to_pictures(vae, drafts)).numpy(), group, strict=True):
            found = look(picture)
            if _usable(found, meaning, recipe):
                latents.append(draft.half())
                wanted.append(to_bytes(render(ideal(found), 128))[0])
        print(f"drafts: {len(latents)} usable of {start + len(group)}", flush=True)
    torch.save({"latents": torch.stack(latents), "wanted": torch.stack(wanted)}, path)


class _Lessons:
    """Pairs of latents and wanted pictures: drafts and drawings mixed."""

    def __init__(self, vae: AutoencoderKL, drafts: Path, recipe: PolishRecipe) -> None:
        stored = torch.load(drafts)
        self._latents, self._wanted = stored["latents"], stored["wanted"]
        self._vae, self._recipe = vae, recipe
        self._generator = torch.Generator().manual_seed(recipe.seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """(N, 4, 16, 16) scaled latents and (N, 3, 128, 128) pictures."""
        recipe, generator = self._recipe, self._generator
        if torch.rand((), generator=generator) < recipe.draft_share:
            chosen = torch.randint(len(self._latents), (recipe.batch,), generator=generator)
            return self._latents[chosen].float(), self._wanted[chosen].permute(0, 3, 1, 2).float() / 127.5 - 1
        pictures = sketches(recipe.batch, 128, generator)
        latents = to_latents(self._vae, pictures)
        strength = recipe.noise * torch.rand(recipe.batch, 1, 1, 1, generator=generator)
        return latents + strength * torch.randn(latents.shape, generator=generator), pictures


def polish(vae: AutoencoderKL, drafts: Path, recipe: PolishRecipe, path: Path) -> None:
    """Train the decoder and save the whole autoencoder with averaged weights to `path`."""
    torch.manual_seed(recipe.seed)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for weight in trained:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average, meter, lessons = Average(vae, recipe.decay), Meter("polish", every=50), _Lessons(vae, drafts, recipe)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * cosine(step, recipe.steps, warm=50, floor=0.03)
        latents, pictures = lessons.draw()
        made = vae.decode(latents / SCALE).sample
        loss = picture_loss(made, pictures, recipe.edge)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        meter.note(loss=loss.item(), db=psnr(made.detach(), pictures))
    average.apply()
    torch.save(vae.state_dict(), path)
