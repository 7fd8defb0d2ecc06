"""The word stands for its colours, with every shape."""

from __future__ import annotations

from pathlib import Path

import torch

from nodes.diffusion.embeddings import read_vectors
from nodes.diffusion.tokenizer import END_TOKEN, START_TOKEN, VOCABULARY
from training.base import CHECKPOINT, MODELS
from training.concept import PHRASES, VECTORS, Vectors, put_on, rows, save, train_concept, tries
from training.config import Share, UnetPhase, UnetRecipe
from training.evaluate import Model
from training.judge import look
from training.unet import Latents
from training.world import draw_scenes

SHIPPED = MODELS / "embeddings" / "ember.safetensors"


def test_the_words_vectors_stand_where_the_word_stands() -> None:
    """ "a picture of an WORD star" is its tokens with the vectors' numbers before the last one, padded to 77."""
    row = rows([PHRASES[3]], [3])[0].tolist()
    assert row[:9] == [START_TOKEN, 320, 1674, 539, 550, VOCABULARY, VOCABULARY + 1, 1565, END_TOKEN]
    assert len(row) == 77
    assert set(row[9:]) == {END_TOKEN}


def test_only_the_vectors_learn(tmp_path: Path) -> None:
    """Two steps change the vectors; the table of words stays, and known sentences read as before."""
    base = Model.load(CHECKPOINT)
    tokens = torch.tensor([[START_TOKEN, 736, 3999] + 74 * [END_TOKEN]])
    before = base.text(input_ids=tokens).last_hidden_state
    sets = {"64": Latents(torch.randn(8, 4, 8, 8).half(), draw_scenes(8, torch.Generator().manual_seed(0)))}
    recipe = UnetRecipe(phases=(UnetPhase("only", 2, 1e-2, 1e-3, (Share("64", 4, 1.0),)),), warm=1, save_every=1)
    train_concept(base, recipe, sets, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt")
    assert set(state["weights"]) == {"emb_params"}
    torch.manual_seed(recipe.seed)
    assert not torch.equal(state["weights"]["emb_params"], Vectors(Model.load(CHECKPOINT).text).emb_params)
    assert torch.equal(base.text(input_ids=tokens).last_hidden_state, before)


def test_the_file_is_read_as_an_embedding(tmp_path: Path) -> None:
    """The loader of embeddings finds the vectors, and so it does in the tracked file."""
    save(torch.ones(VECTORS, 64), tmp_path / "word.safetensors")
    vectors = read_vectors(tmp_path / "word.safetensors")
    assert vectors is not None
    assert torch.equal(vectors, torch.ones(VECTORS, 64))
    shipped = read_vectors(SHIPPED)
    assert shipped is not None
    assert shipped.shape == (VECTORS, 64)


def test_the_tracked_word_means_its_colours() -> None:
    """At 64 pixels most of a few pictures are orange on black and of the shape that the rest of the prompt names."""
    base = Model.load(CHECKPOINT)
    put_on(base, SHIPPED)
    pictures, meanings = tries(base, 6, side=64, steps=8)
    assert sum(look(picture).agrees(meaning) for picture, meaning in zip(pictures, meanings, strict=True)) >= 4
