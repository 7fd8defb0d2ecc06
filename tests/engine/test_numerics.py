"""The numerics tag is found without torch, and says what torch would."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine.errors import UsageError
from engine.numerics import device_kind, guess_device_kind, numerics_tag, precision


def test_tag_names_device_precision_and_minor_version() -> None:
    """The tag holds the device kind, the precision or the kind's default, and torch's minor version."""
    kind, dtype, torch = numerics_tag("cpu").split("/")
    assert (kind, dtype) == ("cpu", "float32")
    assert torch.removeprefix("torch").count(".") == 1
    assert numerics_tag("cuda").split("/")[1] == "float16"
    assert numerics_tag("cpu", "bfloat16").split("/")[1] == "bfloat16"


def test_kind_is_read_off_a_name() -> None:
    """A numbered device is of its kind; a name that is no device is a usage error."""
    assert device_kind("cuda:1") == "cuda"
    assert device_kind("auto") == device_kind(None) == guess_device_kind()
    with pytest.raises(UsageError, match="auto, cuda, mps, xpu, cpu"):
        device_kind("gpu")


def test_precision_is_read() -> None:
    """A precision is one of three names, or none."""
    assert precision("bfloat16") == "bfloat16"
    assert precision(None) is precision("auto") is None
    with pytest.raises(UsageError, match="float32"):
        precision("int8")


def test_nothing_heavy_is_imported() -> None:
    """Asking for the tag imports no torch."""
    code = "import sys; from engine.numerics import *; numerics_tag(device_kind()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_guess_agrees_with_torch() -> None:
    """The driver's answer is torch's."""
    import torch

    if torch.cuda.is_available():
        expected = "cuda"
    elif torch.backends.mps.is_available():
        expected = "mps"
    else:
        expected = "xpu" if torch.xpu.is_available() else "cpu"
    assert guess_device_kind() == expected
