"""The table of models says what is so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.models_table import FEATURES, FORMATS, HEIGHT, PAGE, ROWS, WIDTH, Trial, lines_of, outcomes
from benchmarks.random_models import SMALL
from engine.catalogue import read_catalogue


def test_every_model_has_its_lines_and_every_short_name_its_model() -> None:
    """Of the random models and of the catalogue's checkpoints and folders, none is left out."""
    assert set(ROWS) == set(SMALL)
    text = PAGE.read_text(encoding="utf-8")
    for row in ROWS.values():
        for format_ in FORMATS:
            assert f"| {row.title} | {', '.join(f'`{name}`' for name in row.pulls)} | {format_} |" in text
    pulled = [name for row in ROWS.values() for name in row.pulls]
    kinds = ("checkpoints", "diffusers")
    assert sorted(pulled) == sorted(name for name, entry in read_catalogue().items() if entry.folder in kinds)


def test_a_model_s_lines_are_what_running_it_gives() -> None:
    """For the smallest one; the others are run by ``python -m benchmarks.models_table --check``."""
    found = outcomes("sd3")
    assert set(found) == {(format_, feature) for format_ in FORMATS for feature in FEATURES}
    written = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in written if line.startswith(f"| {ROWS['sd3'].title} |")] == lines_of("sd3", found)


@pytest.mark.parametrize(
    ("picture", "feature", "said"),
    [
        (torch.rand(1, HEIGHT, WIDTH + 8, 3), "clip skip", "expected a picture of shape"),
        (torch.full((1, HEIGHT, WIDTH, 3), torch.nan), "inpainting", "expected a finite picture"),
        (torch.full((1, HEIGHT, WIDTH, 3), 0.5), "tiled VAE", "found one colour"),
        (torch.linspace(0, 1, HEIGHT * WIDTH * 3).reshape(1, HEIGHT, WIDTH, 3), "LoRA", "found the same"),
    ],
)
def test_a_bad_picture_is_a_no(picture: torch.Tensor, feature: str, said: str) -> None:
    """With the reason below the table."""
    plain = torch.linspace(0, 1, HEIGHT * WIDTH * 3).reshape(1, HEIGHT, WIDTH, 3)
    trial = Trial("sd3", Path("unused"), {"file": plain})
    reason = trial.judge(picture, "file", feature)
    assert said in reason
    found = {(format_, name): "" for format_ in FORMATS for name in FEATURES} | {("file", feature): reason}
    assert lines_of("sd3", found)[0].split(" | ").count("no") + lines_of("sd3", found)[0].endswith(" no |") == 1
