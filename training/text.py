"""The text encoder: CLIP's layout, 64 wide, taught to name what a caption says and then frozen.

While it is taught, only the words of the grammar have rows of their own; every other token shares one row, the
"unknown word". Then the table is spread over CLIP's 49,408 rows, so that any prompt can be read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from nodes.diffusion.tokenizer import END_TOKEN, START_TOKEN, VOCABULARY, tokenize
from training.config import TextRecipe
from training.grammar import NOT_SAID, Meaning, every_caption, words
from training.world import COLOURS, PLACES, SHAPES, SIZES

LENGTH = 77
"""Tokens the encoder looks at: a start mark, 75 of the text, an end mark."""
UNKNOWN = 0
"""A token of no word in the grammar ("!"): its row is every unknown word's."""
WIDTH = 64
HEADS = 8
LAYERS = 2
ANSWERS = (len(COLOURS) + 1, len(SHAPES) + 1, len(COLOURS) + 1, len(PLACES), len(SIZES))
"""Answers to each question about a caption: colour, shape and ground (the last answer is "not said"), place, size."""
NOTHING = Meaning(NOT_SAID, NOT_SAID, NOT_SAID)
TABLE = "embeddings.token_embedding.weight"


def token_rows(captions: Sequence[str]) -> Tensor:
    """(N, 77) token numbers; the end mark fills a row up, as Stable Diffusion 1 pads."""
    rows = [[START_TOKEN, *tokenize(text)[: LENGTH - 2]] for text in captions]
    return torch.tensor([row + [END_TOKEN] * (LENGTH - len(row)) for row in rows])


def known_tokens() -> list[int]:
    """The tokens of the grammar's words and the two marks, in order."""
    return sorted({START_TOKEN, END_TOKEN} | {token for word in words() for token in tokenize(word)})


def with_unknown_words(row: Sequence[int], most: int, chance: random.Random) -> list[int]:
    """Put 1 to `most` unknown words into a row of tokens: at its beginning, at its end or anywhere."""
    body = list(row[1 : row.index(END_TOKEN)])
    for _ in range(chance.randint(1, most)):
        body.insert(chance.choice([0, len(body), chance.randint(0, len(body))]), UNKNOWN)
    filled = [START_TOKEN, *body[: LENGTH - 2]]
    return filled + [END_TOKEN] * (LENGTH - len(filled))


def make_text_encoder(vocabulary: int = VOCABULARY) -> CLIPTextModel:
    """An untrained encoder for token numbers below `vocabulary`, of which the last two are the marks."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            projection_dim=WIDTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def answers(meaning: Meaning) -> list[int]:
    """A meaning as class numbers, "not said" being the last class of the first three questions."""
    said = (meaning.colour, meaning.shape, meaning.ground, meaning.place, meaning.size)
    return [number % classes for number, classes in zip(said, ANSWERS, strict=True)]


class Lessons:
    """Draws captions, a share of them with unknown words inside, or with nothing but unknown words."""

    def __init__(self, recipe: TextRecipe) -> None:
        captions = list(every_caption())
        self._rows = token_rows([text for text, _ in captions]).tolist()
        self._answers = [answers(meaning) for _, meaning in captions]
        self._numbers: dict[tuple[bool, bool], list[int]] = {}
        for number, (_, meaning) in enumerate(captions):
            self._numbers.setdefault((meaning.place > 0, meaning.size > 0), []).append(number)
        self._empty = token_rows([""])[0].tolist()
        self._recipe = recipe
        self._chance = random.Random(recipe.seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """(count, 77) token numbers and (count, 5) answers."""
        drawn = [self._one() for _ in range(count)]
        return torch.tensor([row for row, _ in drawn]), torch.tensor([answer for _, answer in drawn])

    def _one(self) -> tuple[list[int], list[int]]:
        chance, recipe = self._chance, self._recipe
        if chance.random() < recipe.nothing_share:
            junk = with_unknown_words(self._empty, recipe.junk_words, chance)
            return chance.choice([self._empty, junk]), answers(NOTHING)
        placed, sized = chance.random() < recipe.placed_share, chance.random() < recipe.sized_share
        number = chance.choice(self._numbers[placed, sized])
        row = self._rows[number]
        if chance.random() < recipe.unknown_share:
            row = with_unknown_words(row, recipe.unknown_words, chance)
        return row, self._answers[number]


def _loss(states: Tensor, questions: nn.ModuleList, closing: Tensor, right: Tensor) -> tuple[Tensor, float]:
    """Cross entropy and share of right answers at the end mark and the padding behind it (`closing`, (N, L))."""
    loss, correct = states.new_zeros(()), 0.0
    for number, question in enumerate(questions):
        guess = question(states[closing])
        target = right[:, number : number + 1].expand_as(closing)[closing]
        loss = loss + functional.cross_entropy(guess, target)
        correct += (guess.argmax(-1) == target).float().mean().item() / len(questions)
    return loss, correct


class Elder:
    """An encoder that knew fewer words: what it made of its own captions is to stay as it was."""

    def __init__(self, encoder: CLIPTextModel, tokens: Sequence[int]) -> None:
        self._encoder = encoder
        table = encoder.get_input_embeddings().weight
        self._new = torch.tensor([token for token in tokens if torch.equal(table[token], table[UNKNOWN])])

    def teach(self, young: CLIPTextModel, tokens: Sequence[int]) -> None:
        """Start `young` from what is known; new words from the unknown word's row and a little noise."""
        weights = dict(self._encoder.state_dict())
        name = _table_in(weights)
        weights[name] = weights[name][torch.tensor([UNKNOWN, *tokens])].clone()
        fresh = torch.isin(torch.tensor([UNKNOWN, *tokens]), self._new)
        weights[name][fresh] += 0.3 * torch.randn(int(fresh.sum()), WIDTH)
        young.load_state_dict(weights)

    def distance(self, rows: Tensor, states: Tensor) -> Tensor:
        """Mean squared change of the states of those captions that hold no new word."""
        old = ~torch.isin(rows, self._new).any(1)
        with torch.no_grad():
            before = self._encoder(input_ids=rows[old]).last_hidden_state
        return functional.mse_loss(states[old], before)


def train_text(recipe: TextRecipe, path: Path, known: CLIPTextModel | None = None) -> None:
    """Teach the encoder and save its weights, with CLIP's whole vocabulary, to `path`.

    `known` is an encoder that understands some of the captions already; a denoiser trained with it can go on with the new one.
    """
    torch.manual_seed(recipe.seed)
    tokens = known_tokens()
    small = torch.zeros(VOCABULARY, dtype=torch.int64)
    small[torch.tensor(tokens)] = torch.arange(1, len(tokens) + 1)
    encoder = make_text_encoder(len(tokens) + 1)
    nn.init.normal_(encoder.get_input_embeddings().weight, std=0.3)
    elder = Elder(known, tokens) if known else None
    if elder:
        elder.teach(encoder, tokens)
    questions = nn.ModuleList(nn.Linear(WIDTH, classes) for classes in ANSWERS)
    parameters = [*encoder.parameters(), *questions.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.05)
    lessons = Lessons(recipe)
    for step in range(recipe.steps):
        rows, right = lessons.draw(recipe.batch)
        if step % 4:
            rows = rows[:, : recipe.short_length]
        states = encoder(input_ids=small[rows]).last_hidden_state
        loss, correct = _loss(states, questions, rows == END_TOKEN, right)
        if elder:
            loss = loss + recipe.hold * elder.distance(rows, states)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"text: step {step + 1}, loss {loss.item():.4f}, right answers {correct:.4f}", flush=True)
    torch.save(spread(encoder.state_dict(), tokens), path)


def spread(weights: dict[str, Tensor], tokens: Sequence[int]) -> dict[str, Tensor]:
    """An encoder's weights with its small table, row 0 for all unknown tokens and then `tokens`, as CLIP's table."""
    name = _table_in(weights)
    table = weights[name][:1].expand(VOCABULARY, -1).clone()
    table[torch.tensor(tokens)] = weights[name][1:]
    return weights | {name: table}


def _table_in(weights: Mapping[str, Tensor]) -> str:
    return next(key for key in weights if key.endswith(TABLE))


def load_text(path: Path) -> CLIPTextModel:
    encoder = make_text_encoder()
    encoder.load_state_dict(torch.load(path))
    return encoder.eval().requires_grad_(False)


def encode(encoder: CLIPTextModel, captions: Sequence[str], batch: int = 64) -> Tensor:
    """(N, 77, 64) states."""
    with torch.no_grad():
        return torch.cat([encoder(input_ids=part).last_hidden_state for part in token_rows(captions).split(batch)])
