"""An IP-Adapter for the demo checkpoint, which takes a picture as a prompt: `python -m training.ip_adapter`.

Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models" (2023): the picture's
embedding becomes four tokens, and each attention to the words gets keys and values of its own for them. Needs the image
encoder of training/vision.py.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from training.base import CHECKPOINT, MODELS, arguments, parsed, scene_sets
from training.blur import spoiled
from training.config import ADAPTER, SHOWN, Share, ShownRecipe, UnetRecipe
from training.evaluate import SEED, Model
from training.export import save_halves
from training.grammar import Meaning, caption, pattern_weights, patterns, phrase
from training.judge import Picture, describe, look
from training.loop import Loss, load_averaged, train
from training.sample import sample
from training.sheet import contact_sheet
from training.text import WIDTH, encode
from training.unet import Latents, Unet, noised
from training.vae import FACTOR, to_pictures
from training.vision import EMBEDS, embeds, read_vision
from training.world import HELD_OUT, TRAINED, Combo, draw_scenes, render, to_bytes

TOKENS = 4
DROPPED = 0.1
"""How often a picture is left out in training, so that guidance has something to be measured from."""


class Tokens(nn.Module):
    """`image_proj`: (N, 64) embeddings to (N, 4, 64) tokens beside those of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(EMBEDS, TOKENS * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, found: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(found).view(len(found), TOKENS, WIDTH))
        return tokens


class Decoupled(nn.Module):
    """Attention to the words, and by keys and values of its own to the last four tokens, which are the picture's; the sum of both."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(attention.to_k.in_features, attention.to_k.out_features, bias=False)
        self.to_v_ip = nn.Linear(attention.to_v.in_features, attention.to_v.out_features, bias=False)
        self.to_k_ip.load_state_dict(attention.to_k.state_dict())
        self.to_v_ip.load_state_dict(attention.to_v.state_dict())

    def forward(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        text, picture = encoder_hidden_states[:, :-TOKENS], encoder_hidden_states[:, -TOKENS:]
        query = _apart(attn.to_q(hidden_states), attn.heads)
        read = functional.scaled_dot_product_attention(
            query, _apart(attn.to_k(text), attn.heads), _apart(attn.to_v(text), attn.heads)
        )
        shown = functional.scaled_dot_product_attention(
            query, _apart(self.to_k_ip(picture), attn.heads), _apart(self.to_v_ip(picture), attn.heads)
        )
        out: Tensor = attn.to_out[0]((read + shown).transpose(1, 2).flatten(2))
        return out


def _apart(values: Tensor, heads: int) -> Tensor:
    """(N, T, C) to (N, heads, T, C / heads)."""
    count, length, width = values.shape
    return values.view(count, length, heads, width // heads).transpose(1, 2)


class Adapter(nn.Module):
    """All that is trained, named as in the files of the paper's authors.

    All attentions count, in the order that diffusers has them (down, up, middle), so those to the words have odd numbers.
    """

    def __init__(self, unet: Unet) -> None:
        super().__init__()
        self.image_proj = Tokens()
        names = [name.removesuffix(".processor") for name in unet.attn_processors]
        self.ip_adapter = nn.ModuleDict(
            {
                str(number): Decoupled(unet.get_submodule(name))
                for number, name in enumerate(names)
                if name.endswith("attn2")
            }
        )

    def put_on(self, unet: Unet) -> None:
        """From now on the denoiser expects the picture's tokens behind the text's."""
        names = list(unet.attn_processors)
        for number, module in self.ip_adapter.items():
            unet.get_submodule(names[int(number)].removesuffix(".processor")).set_processor(module)


def shown(adapter: Adapter, states: Tensor, found: Tensor) -> Tensor:
    """(N, 81, 64): the states of captions with the tokens of pictures' embeddings behind them."""
    return torch.cat([states, adapter.image_proj(found)], 1)


@dataclass(frozen=True, slots=True)
class Seen:
    """Embeddings (N, 64) of pictures, and the rows of those of each combination."""

    found: Tensor
    rows: dict[tuple[int, ...], list[int]]

    def of(self, combos: Tensor, chance: random.Random) -> Tensor:
        """For each of (M, 3) combinations the embedding of a picture of it, in whatever place and size."""
        return self.found[[chance.choice(self.rows[tuple(combo)]) for combo in combos.tolist()]]


@torch.no_grad()
def look_at(vision: CLIPVisionModelWithProjection, recipe: ShownRecipe, combos: Sequence[Combo] = TRAINED) -> Seen:
    """Draw pictures of the combinations for training and embed them, once: a picture as a prompt is to say what, not where."""
    generator, found = torch.Generator().manual_seed(recipe.seed), []
    scenes = draw_scenes(recipe.count, generator, combos, placed=recipe.placed, sized=recipe.sized)
    for start in range(0, recipe.count, 128):
        drawn = render(scenes[start : start + 128], recipe.sides[start // 128 % len(recipe.sides)])
        found.append(embeds(vision, spoiled(drawn, recipe.spoiled_share, generator)))
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, combo in enumerate(scenes.combo.tolist()):
        rows.setdefault(tuple(combo), []).append(number)
    return Seen(torch.cat(found), rows)


class Words:
    """What is said beside pictures, and what would say all that the picture and that say together."""

    def __init__(self, encoder: CLIPTextModel, recipe: UnetRecipe, chance: random.Random) -> None:
        self._encoder, self._recipe, self._chance = encoder, recipe, chance
        self._known: dict[str, Tensor] = {}

    def draw(self, meanings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For (N, 5) meanings the states (N, 77, 64) of what is said, those of all, and whether (N, 1) there is a picture."""
        some = [self._one(Meaning(*row)) for row in meanings.tolist()]
        given = torch.cat([self._states(text) for text, _, _ in some])
        full = torch.cat([self._states(text) for _, text, _ in some])
        return given, full, torch.tensor([[pictured] for _, _, pictured in some])

    def _one(self, meaning: Meaning) -> tuple[str, str, bool]:
        """What is said, what says all of it, and whether there is a picture."""
        chance, recipe = self._chance, self._recipe
        said = ""
        if chance.random() >= recipe.empty_share:
            said = phrase(chance.choices(patterns(meaning.place), pattern_weights(meaning.place))[0], meaning)
        else:
            meaning = replace(meaning, place=0, size=0)
        if chance.random() < DROPPED:
            return said, said, False
        return said, caption(meaning), True

    def _states(self, text: str) -> Tensor:
        if text not in self._known:
            self._known[text] = encode(self._encoder, [text])
        return self._known[text]


def train_adapter(
    base: Model, seen: Seen, recipe: UnetRecipe, sets: dict[str, Latents], path: Path, start: Path | None = None
) -> None:
    """Train the adapter beside the frozen denoiser and leave its state at `path`; `start` is an exported one to go on from.

    The denoiser alone, told in words all that words and picture say, gives the aim: it draws what it is told, and its answer is free of the
    chance that is in the noise itself, so that far fewer steps do than with the noise as the aim.
    """
    torch.manual_seed(recipe.seed)
    alone, adapter = copy.deepcopy(base.unet), Adapter(base.unet)
    if start and not path.exists():
        adapter.load_state_dict(read_adapter(start, base.unet).state_dict())
    adapter.requires_grad_(True).train().put_on(base.unet)

    def begin(seed: int) -> Loss:
        chance = random.Random(seed)
        words = Words(base.text, recipe, chance)

        def loss(share: Share) -> Tensor:
            latents = sets[share.latents]
            chosen = torch.randint(len(latents), (share.batch,))
            scenes = latents.scenes[chosen]
            given, full, pictured = words.draw(scenes.meanings)
            found = seen.of(scenes.combo, chance) * pictured
            noisy = noised(latents.values[chosen].float(), recipe.cap)
            with torch.no_grad():
                aim = alone(noisy.values, noisy.times, full, return_dict=False)[0]
            guess = base.unet(noisy.values, noisy.times, shown(adapter, given, found), return_dict=False)[0]
            return noisy.loss(guess, aim)

        return loss

    train("adapter", adapter, recipe, begin, path)


def read_adapter(path: Path, unet: Unet) -> Adapter:
    adapter = Adapter(unet)
    adapter.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return adapter.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Try:
    """A picture as a prompt, what it shows, and what was drawn."""

    prompt: Picture
    meaning: Meaning
    made: Picture


@torch.no_grad()
def tries(
    base: Model,
    vision: CLIPVisionModelWithProjection,
    adapter: Adapter,
    count: int,
    *,
    side: int = 128,
    steps: int = 20,
    guidance: float = 5.0,
    batch: int = 25,
) -> list[Try]:
    """Show drawings of held-out combinations and say nothing. The adapter is on the denoiser already."""
    scenes = draw_scenes(count, torch.Generator().manual_seed(80), HELD_OUT, placed=0.2, sized=0.2)
    empty = encode(base.text, [""])
    nothing, done = shown(adapter, empty, torch.zeros(1, EMBEDS))[0], []
    for start in range(0, count, batch):
        some = scenes[start : start + batch]
        drawn = render(some, side)
        states = shown(adapter, empty.expand(len(some), -1, -1), embeds(vision, drawn))
        latents = sample(
            base.unet,
            states,
            nothing,
            width=side // FACTOR,
            seed=SEED + start,
            steps=steps,
            guidance=guidance,
            batch=batch,
        )
        made = to_bytes(to_pictures(base.vae, latents)).numpy()
        meanings = [Meaning(*row) for row in some.combo.tolist()]
        done += [Try(*it) for it in zip(to_bytes(drawn).numpy(), meanings, made, strict=True)]
    return done


def report(done: Sequence[Try], sheet: Path | None = None) -> None:
    """Print how often colour, shape and ground came over; save a sheet, the prompts above."""
    found = [look(one.made) for one in done]
    pairs = list(zip(found, (one.meaning for one in done), strict=True))
    both = [(it.colour, it.shape) == (meaning.colour, meaning.shape) for it, meaning in pairs]
    ground = sum(it.ground == meaning.ground for it, meaning in pairs)
    print(f"adapter: colour and shape {sum(both)}/{len(done)}, ground {ground}/{len(done)}", flush=True)
    if sheet:
        pictures = [np.concatenate([one.prompt, one.made]) for one in done[:50]]
        wrong = [number for number, fits in enumerate(both[:50]) if not fits]
        contact_sheet(pictures, [describe(it) for it in found[:50]], sheet, wrong=wrong)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--start", type=Path, help="an exported adapter to go on from")
    given = parsed(parser)
    base, vision = Model.load(CHECKPOINT), read_vision(given.work / "demo_vision.safetensors")
    state, file = given.work / "adapter.pt", given.work / "demo_ip_adapter.safetensors"
    fresh = Adapter(base.unet)
    train_adapter(base, look_at(vision, SHOWN), ADAPTER, scene_sets(base, given.work), state, given.start)
    save_halves(load_averaged(fresh, state).state_dict(), file)
    if given.tries:
        adapter = read_adapter(file, base.unet)
        adapter.put_on(base.unet)
        report(tries(base, vision, adapter, given.tries), file.with_suffix(".png"))
    print(f"{file} belongs into {MODELS / 'ipadapter'}")


if __name__ == "__main__":
    main()
