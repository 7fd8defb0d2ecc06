"""Tokens are CLIP's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.diffusion.tokenizer import VOCABULARY, tokenize

KNOWN = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "": [],
    "A  Photo\nOF a cAt": [320, 1125, 539, 320, 2368],
    "hello world!": [3306, 1002, 256],
    "it's 2024": [585, 568, 273, 271, 273, 275],
}


@pytest.mark.parametrize("text", KNOWN)
def test_known_texts(text: str) -> None:
    """Texts with well-known token numbers get them, whatever their case and white space."""
    assert tokenize(text) == KNOWN[text]


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=30))
def test_any_text_has_tokens(text: str) -> None:
    """No text raises, and all numbers lie in the vocabulary."""
    assert all(0 <= token < VOCABULARY - 2 for token in tokenize(text))


TEXTS = ["a red circle on a blue background", "don't they'll we've", "naïve café über Ångström", "日本語のテキスト", "emoji 🎨🖌️!",
         "snake_case, kebab-case; 3.14 (x)", "ＦＵＬＬ width", "ȧ̈ combining", "x" * 200, "...!!!???", "<b>&amp;</b>"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_equal_those_of_transformers(text: str) -> None:
    """transformers' CLIP tokenizer, given the same vocabulary, gives the same numbers."""
    from transformers import CLIPTokenizer

    from nodes.diffusion.tokenizer import _tokenizer

    model = _tokenizer().model
    vocabulary = _tokenizer().get_vocab() | {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    assert model is not None
    from nodes.diffusion.tokenizer import _merges, _vocabulary_file

    theirs = CLIPTokenizer(vocab=vocabulary, merges=_merges(_vocabulary_file()))
    assert tokenize(text) == theirs(text, add_special_tokens=False).input_ids
