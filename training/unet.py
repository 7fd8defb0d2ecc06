"""The denoiser: Stable Diffusion's UNet at two levels of 64 and 128 channels, trained on latents encoded beforehand."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from training.config import LatentSet, Share, UnetPhase, UnetRecipe
from training.grammar import Meaning, pattern_weights, patterns, phrase
from training.steps import Average, Meter, cosine
from training.text import WIDTH, token_rows, with_unknown_words
from training.vae import CHANNELS, GROUPS, to_latents
from training.world import Scenes, draw_scenes, render

Unet: TypeAlias = UNet2DConditionModel
TIMES = 1000


def make_unet() -> Unet:
    """3.15 million weights: attention to the words at 1/8 of the picture's side and in the middle, 8 heads."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=CHANNELS,
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
    """Encoded scenes: (N, 4, h, w) float16 scaled latents and the (N, 5) meanings, columns as in Meaning."""

    values: Tensor
    meanings: Tensor

    def __len__(self) -> int:
        return len(self.values)


def _meanings(scenes: Scenes) -> Tensor:
    return torch.cat([scenes.combo, scenes.place[:, None], scenes.size[:, None]], 1)


def encode_set(vae: AutoencoderKL, wanted: LatentSet, path: Path) -> None:
    """Draw and encode a set and save it to `path`."""
    generator = torch.Generator().manual_seed(wanted.seed)
    values: list[Tensor] = []
    meanings: list[Tensor] = []
    meter = Meter(f"latents {wanted.name}", every=50)
    while 32 * len(values) < wanted.count:
        scenes = draw_scenes(32, generator, placed=wanted.placed, sized=wanted.sized)
        values.append(to_latents(vae, render(scenes, wanted.side)).half())
        meanings.append(_meanings(scenes))
        meter.note(spread=values[-1].float().std().item())
    torch.save({"values": torch.cat(values), "meanings": torch.cat(meanings)}, path)


def load_set(path: Path) -> Latents:
    stored = torch.load(path)
    return Latents(stored["values"], stored["meanings"])


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


def noise_loss(unet: nn.Module, clean: Tensor, states: Tensor, cap: float) -> Tensor:
    """Mean squared error of the predicted noise, weighted by min-SNR (Hang et al., 2023), at times spread evenly."""
    count = len(clean)
    times = ((torch.arange(count) + torch.rand(count)) / count * TIMES).long().clamp(max=TIMES - 1)
    signal = kept()[times].float().view(-1, 1, 1, 1)
    noise = torch.randn_like(clean)
    guess: Tensor = unet(signal.sqrt() * clean + (1 - signal).sqrt() * noise, times, states, return_dict=False)[0]
    ratio = (signal / (1 - signal)).flatten()
    return ((guess.float() - noise).square().mean((1, 2, 3)) * (ratio.clamp(max=cap) / ratio)).mean()


class Course:
    """Which rate and which latent set hold at a step of the whole training, phase after phase."""

    def __init__(self, recipe: UnetRecipe) -> None:
        self._recipe = recipe
        self.total = sum(phase.steps for phase in recipe.phases)

    def _at(self, step: int) -> tuple[UnetPhase, int]:
        """The phase of a step, and the step's number in it."""
        for phase in self._recipe.phases:
            if step < phase.steps:
                return phase, step
            step -= phase.steps
        raise ValueError(f"expected a step below {self.total}, found one {step} beyond; lengthen the last phase")

    def rate(self, step: int) -> float:
        """Half a cosine from each phase's first rate to its last, and one ramp at the very beginning."""
        phase, own = self._at(step)
        ramp = min(1.0, (step + 1) / self._recipe.warm)
        return ramp * phase.rate * cosine(own, phase.steps, warm=1, floor=phase.last_rate / phase.rate)

    def draw(self, step: int) -> Share:
        """Which latents this step trains on, and the batch; the same at every run."""
        phase, own = self._at(step)
        chance = random.Random(f"{self._recipe.seed} {phase.name} {own}")
        return chance.choices(phase.shares, [share.weight for share in phase.shares])[0]


def train_unet(recipe: UnetRecipe, sets: dict[str, Latents], encoder: CLIPTextModel, path: Path) -> None:
    """Train, going on from the state at `path` where there is one, and leave the final state there."""
    unet = make_unet()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    average, course = Average(unet, recipe.decay), Course(recipe)
    first = _restore(path, unet, optimizer, average) if path.exists() else 0
    torch.manual_seed(recipe.seed + first)
    captions, meter = Captions(encoder, recipe, recipe.seed + first), Meter("unet", every=50)
    for step in range(first, course.total):
        for group in optimizer.param_groups:
            group["lr"] = course.rate(step)
        share = course.draw(step)
        latents = sets[share.latents]
        chosen = torch.randint(len(latents), (share.batch,))
        states = captions.states(latents.meanings[chosen])
        loss = noise_loss(unet, latents.values[chosen].float(), states, recipe.cap)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        meter.note(loss=loss.item())
        if (step + 1) % recipe.save_every == 0 or step + 1 == course.total:
            _save(path, step + 1, unet, optimizer, average)


def _save(path: Path, step: int, unet: Unet, optimizer: torch.optim.Optimizer, average: Average) -> None:
    state = {"step": step, "unet": unet.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values}
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def _restore(path: Path, unet: Unet, optimizer: torch.optim.Optimizer, average: Average) -> int:
    """Put a saved state back and return its step; a state without an optimizer's is a start from known weights."""
    state = torch.load(path)
    unet.load_state_dict(state["unet"])
    average.restore(state["average"], state["step"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def start_from(unet: Unet, path: Path) -> None:
    """Save known weights as the state to train on from."""
    torch.save({"step": 0, "unet": unet.state_dict(), "average": [p.detach() for p in unet.parameters()]}, path)


def load_unet(path: Path) -> Unet:
    """The averaged weights of a training state."""
    state = torch.load(path)
    unet = make_unet()
    unet.load_state_dict(state["unet"])
    with torch.no_grad():
        for weight, value in zip(unet.parameters(), state["average"], strict=True):
            weight.copy_(value)
    return unet.eval().requires_grad_(False)
