"""The denoiser: Stable Diffusion's UNet at two levels of 64 and 128 channels, trained on latents encoded beforehand."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from training.config import LatentSet, Share, UnetRecipe
from training.grammar import Meaning, pattern_weights, patterns, phrase
from training.loop import Loss, load_averaged, train
from training.steps import Meter
from training.text import WIDTH, token_rows, with_unknown_words
from training.vae import CHANNELS, FACTOR, GROUPS, to_latents
from training.world import Scenes, draw_scenes, render, scatter

Unet: TypeAlias = UNet2DConditionModel
TIMES = 1000


def make_unet(channels: int = CHANNELS) -> Unet:
    """3.15 million weights: attention to the words at 1/8 of the picture's side and in the middle, 8 heads."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=CHANNELS,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=GROUPS,
    )


@lru_cache(maxsize=1)
def kept() -> Tensor:
    """(1000,) share of the signal's variance left at each time: Stable Diffusion's "scaled linear" schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMES, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


@lru_cache(maxsize=1)
def sigmas() -> Tensor:
    """(1000,) noise strength relative to the signal at each time."""
    return ((1 - kept()) / kept()).sqrt()


@dataclass(frozen=True, slots=True)
class Latents:
    """Encoded scenes: (N, 4, h, w) float16 scaled latents, and what was drawn."""

    values: Tensor
    scenes: Scenes

    def __len__(self) -> int:
        return len(self.values)

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        return int(self.values.shape[-1]) * FACTOR


def encode_set(vae: AutoencoderKL, wanted: LatentSet, path: Path) -> None:
    """Draw and encode a set and save it to `path`."""
    generator = torch.Generator().manual_seed(wanted.seed)
    values: list[Tensor] = []
    drawn: list[Scenes] = []
    meter = Meter(f"latents {wanted.name}", every=50)
    while 32 * len(values) < wanted.count:
        scenes = draw_scenes(32, generator, placed=wanted.placed, sized=wanted.sized)
        drawn.append(scatter(scenes, wanted.scattered, generator) if wanted.scattered else scenes)
        values.append(to_latents(vae, render(drawn[-1], wanted.side)).half())
        meter.note(spread=values[-1].float().std().item())
    columns = {it.name: torch.cat([getattr(some, it.name) for some in drawn]) for it in fields(Scenes)}
    save_set(torch.cat(values), Scenes(**columns), path)


def save_set(values: Tensor, scenes: Scenes, path: Path) -> None:
    torch.save({"values": values, "scenes": {it.name: getattr(scenes, it.name) for it in fields(Scenes)}}, path)


def load_set(path: Path) -> Latents:
    stored = torch.load(path)
    return Latents(stored["values"], Scenes(**stored["scenes"]))


class Captions:
    """Writes a caption for a meaning, in a phrase drawn at random, and reads it with the frozen text encoder."""

    def __init__(self, encoder: CLIPTextModel, recipe: UnetRecipe, seed: int) -> None:
        self._encoder, self._recipe = encoder, recipe
        self._empty = token_rows([""])[0].tolist()
        self._chance = random.Random(seed)

    def states(self, meanings: Tensor) -> Tensor:
        """(N, 5) meanings to (N, 77, 64) states; some are the states of nothing, for guidance."""
        rows = [self._rows(Meaning(*meaning)) for meaning in meanings.tolist()]
        with torch.no_grad():
            states: Tensor = self._encoder(input_ids=torch.tensor(rows)).last_hidden_state
            return states

    def _rows(self, meaning: Meaning) -> list[int]:
        chance, recipe = self._chance, self._recipe
        if chance.random() < recipe.empty_share:
            rows, most = self._empty, recipe.junk_words
        else:
            pattern = chance.choices(patterns(meaning.place), pattern_weights(meaning.place))[0]
            rows, most = token_rows([phrase(pattern, meaning)])[0].tolist(), recipe.unknown_words
        if chance.random() < recipe.unknown_share:
            return with_unknown_words(rows, most, chance)
        return rows


@dataclass(frozen=True, slots=True)
class Noisy:
    """Latents (N, 4, h, w) with noise at (N,) times, the noise itself, and how much the error in finding each counts, (N,)."""

    values: Tensor
    times: Tensor
    noise: Tensor
    weights: Tensor

    def loss(self, guess: Tensor, aim: Tensor) -> Tensor:
        """Weighted mean squared error."""
        return ((guess.float() - aim).square().mean((1, 2, 3)) * self.weights).mean()


def noised(clean: Tensor, cap: float, late: float = 1.0) -> Noisy:
    """Add noise at times spread evenly, or more of them `late` ones; errors are weighted by min-SNR (Hang et al., 2023), gamma is `cap`."""
    count = len(clean)
    times = (((torch.arange(count) + torch.rand(count)) / count) ** late * TIMES).long().clamp(max=TIMES - 1)
    signal = kept()[times].float().view(-1, 1, 1, 1)
    noise = torch.randn_like(clean)
    ratio = (signal / (1 - signal)).flatten()
    return Noisy(signal.sqrt() * clean + (1 - signal).sqrt() * noise, times, noise, ratio.clamp(max=cap) / ratio)


def noise_loss(unet: nn.Module, clean: Tensor, states: Tensor, cap: float, late: float = 1.0) -> Tensor:
    """Weighted mean squared error of the predicted noise."""
    noisy = noised(clean, cap, late)
    guess: Tensor = unet(noisy.values, noisy.times, states, return_dict=False)[0]
    return noisy.loss(guess, noisy.noise)


def train_unet(recipe: UnetRecipe, sets: dict[str, Latents], encoder: CLIPTextModel, path: Path) -> None:
    """Train, going on from the state at `path` where there is one, and leave the final state there."""
    unet = make_unet()

    def begin(seed: int) -> Loss:
        captions = Captions(encoder, recipe, seed)

        def loss(share: Share) -> Tensor:
            latents = sets[share.latents]
            chosen = torch.randint(len(latents), (share.batch,))
            states = captions.states(latents.scenes.meanings[chosen])
            return noise_loss(unet, latents.values[chosen].float(), states, recipe.cap)

        return loss

    train("unet", unet, recipe, begin, path)


def load_unet(path: Path) -> Unet:
    """The averaged weights of a training state."""
    return load_averaged(make_unet(), path)
