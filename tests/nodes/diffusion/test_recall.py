"""What is known of earlier calls, and of the step that a call belongs to."""

from __future__ import annotations

import torch

from nodes.diffusion.alterations import Moment
from nodes.diffusion.recall import Call, Recalls, unique
from nodes.diffusion.schedules import stable_diffusion
from nodes.diffusion.taylor import expanded, predicted


def test_a_step_has_its_number_whatever_a_solver_asks() -> None:
    """Between two levels it is that of the next; a run may go up as well."""
    levels = (8.0, 4.0, 2.0, 1.0)

    def step(sigma: float, levels: tuple[float, ...] = levels) -> tuple[int, int]:
        at = Moment(sigma, 8, 8, stable_diffusion(), levels=levels)
        return at.step, at.steps

    assert [step(sigma) for sigma in (9.0, 8.0, 6.0, 4.0000001, 1.0, 0.5)] == [(n, 4) for n in (0, 0, 1, 1, 3, 3)]
    assert [step(sigma, levels[::-1])[0] for sigma in (1.0, 1.5, 8.0)] == [0, 1, 3]
    assert step(3.0, ()) == (0, 0)


def test_an_expansion_goes_on_as_it_was() -> None:
    """Of 1, 4, 9 at steps 0, 2 and 3: differences 3/2 and 5, and (5 - 3/2) / 1; two steps on that makes 9 + 2 * 5 + 2 * 7/2."""
    one, four, nine = (torch.full((1, 2), number) for number in (1.0, 4.0, 9.0))
    known = expanded(nine, expanded(four, expanded(one, [], 0, 2), 2, 2), 1, 2)
    assert [it[0, 0].item() for it in known] == [9, 5, 3.5]
    assert predicted(known, 2).tolist() == [[26.0, 26.0]]
    assert expanded(one, known, 0, 2) == [one, *known[1:]]
    assert expanded(one, known, -1, 2) == [one]
    assert expanded(torch.ones(2, 2), known, 1, 2)[1:] == []


def test_what_is_kept_is_found_by_those_who_kept_it() -> None:
    """Side by side; what one of them lacks, or has in another shape, is not found, and what nobody keeps is forgotten."""
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a+1", "a+2"]
    recalls = Recalls({"other": torch.ones(1), "call.c.x": torch.ones(1)})
    call = recalls.call(["a", "b"])
    assert call.found == {}
    call.kept["x"] = torch.tensor([[1.0], [2.0]])
    recalls.keep(["a", "b"], call)
    memory = recalls.remembered(recalls.memory)
    assert memory.keys() == {"other", "call.a.x", "call.b.x"}
    assert Recalls(memory).call(["b", "a"]).found["x"].flatten().tolist() == [2, 1]
    assert Recalls(memory).call(["b", "c"]).found == {}
    assert Recalls({"call.a.x": torch.ones(1, 2), "call.b.x": torch.ones(1, 3)}).call(["a", "b"]).found == {}
    assert Call({"n": torch.tensor([[1.0, 2.0], [1.0, 3.0]])}).numbers("n") is None


def test_what_is_put_aside_is_kept_from_nobody() -> None:
    """Beside one that keeps nothing another finds what it has, and leaves the next."""
    memory = {"call.a.x": torch.ones(1, 2), "call.b.x": torch.full((1, 2), 7.0)}
    recalls = Recalls(memory, aside=frozenset({"b"}))
    call = recalls.call(["b+1", "a"])
    assert call.found["x"].tolist() == [[0, 0], [1, 1]]
    assert recalls.call(["b"]).found == {}
    call.kept["x"] = torch.tensor([[1.0], [2.0]])
    recalls.keep(["b+1", "a"], call)
    assert {name: it.tolist() for name, it in recalls.remembered({}).items()} == {"call.a.x": [[2]]}
