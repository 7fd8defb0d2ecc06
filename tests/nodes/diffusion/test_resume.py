"""A sampling that dies is finished by another process, as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from nodes.diffusion.names import SAMPLER_NAMES
from nodes.diffusion.resume import to_bytes
from nodes.diffusion.samplers import State
from tests.nodes.diffusion.resumer import samplings

ROOT = Path(__file__).parents[3]


def test_another_process_finishes_every_sampler_from_every_state(tmp_path: Path) -> None:
    """Cut after an evaluation of the model, stored, and restored elsewhere: the latents are equal to the last bit."""
    expected: dict[str, Tensor] = {}
    with samplings() as run:
        for sampler in SAMPLER_NAMES:
            states: list[State] = []
            expected[sampler] = run(sampler, save=states.append)
            assert len(states) >= 4
            # a solver that chooses its steps takes dozens of them
            for number, state in enumerate(states[:-1][:: max(1, len(states) // 8)]):
                (tmp_path / f"{sampler}-{number}.state").write_bytes(to_bytes(state))
    subprocess.run([sys.executable, "-m", "tests.nodes.diffusion.resumer", str(tmp_path)], check=True, cwd=ROOT)
    finished = list(tmp_path.glob("*.safetensors"))
    assert len(finished) == len(list(tmp_path.glob("*.state"))) > 3 * len(SAMPLER_NAMES)
    for path in finished:
        assert torch.equal(load_file(path)["x"], expected[path.stem.partition("-")[0]]), path.stem
