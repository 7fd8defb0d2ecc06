"""How tensors are stored: dtype and shape as a header, the elements as they lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from engine.run.codecs import Buffer, LeafCodec


class TensorCodec:
    """``torch.Tensor``, to the last bit. A tensor comes back on the CPU, whatever device it was on, and contiguous."""

    type_name: str = "torch.Tensor"
    version: int = 1

    def encode(self, value: Any) -> tuple[Any, Sequence[Buffer]]:
        import torch

        flat = value.detach().cpu().contiguous().reshape(-1)
        header = {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
        return header, [memoryview(flat.view(torch.uint8).numpy())] if flat.numel() else []

    def decode(self, header: Any, buffers: Sequence[memoryview]) -> Any:
        import torch

        dtype = getattr(torch, header["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{header['dtype']!r} is no dtype")
        if not buffers:
            return torch.empty(header["shape"], dtype=dtype)
        return torch.frombuffer(buffers[0], dtype=dtype).reshape(header["shape"])


LEAVES: Final[tuple[LeafCodec, ...]] = (TensorCodec(),)
