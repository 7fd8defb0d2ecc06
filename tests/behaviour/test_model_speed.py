"""The measurement of models' speed measures, and says what its numbers mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.model_speed import comparisons, measure, report
from benchmarks.random_models import SMALL


@pytest.mark.parametrize("name", ["bk-sdm-small", "vega", "sd3"])
def test_both_sides_sample_the_same_network(tmp_path: Path, name: str) -> None:
    """One of each pipeline, small: a ratio for every round, the bytes of the network, and no file left."""
    found = measure(name, SMALL[name], tmp_path, rounds=2, steps=1, pixels=64)
    assert found["ours"] > 0
    assert found["theirs"] > 0
    assert len(found["ratios"]) == 2
    numbers = {"bk-sdm-small": 7_513_476, "vega": 11_503_236, "sd3": 1_170_752}[name]
    assert found["weights"] == pytest.approx(4 * numbers, rel=0.1)  # SD3's positions are a buffer
    assert found["peak"] > found["weights"]
    assert list(tmp_path.iterdir()) == []


def test_distilled_models_are_compared_with_what_they_were_made_from() -> None:
    """Of those that were measured; times are ours."""
    times = (("sd15", 3.0, 6.0), ("bk-sdm-small", 2.0, 3.0), ("vega", 1.0, 1.0))
    found = {name: {"ours": ours, "processor": processor} for name, ours, processor in times}
    assert comparisons(found) == ["bk-sdm-small is 1.50 times as fast as sd15, by processor time 2.00 times"]
    found["sdxl"] = {"ours": 4.0, "processor": 5.0}
    assert comparisons(found)[1:] == ["vega is 4.00 times as fast as sdxl, by processor time 5.00 times"]


def test_a_report_gives_the_median_of_the_rounds() -> None:
    """Not the ratio of the medians."""
    found = {"ours": 2.0, "theirs": 1.9, "ratios": [1.0, 1.1, 3.0], "weights": 2**30, "peak": 3 * 2**29}
    assert report("sd15", found | {"processor": 3.5, "processor_ratios": [1.0, 1.02, 1.5]}) == (
        "sd15: 2.00 s a step, diffusers' pipeline 1.90 s, ratio 1.100 (1.000 to 3.000, 3 rounds); "
        "processor time 3.50 s, ratio 1.020; weights 1.00 GiB, peak memory 1.50 GiB"
    )
