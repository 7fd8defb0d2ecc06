"""A GGUF file: the weights of a model in few bits, made whole again one tensor at a time.

The format is llama.cpp's: numbers in blocks that share a scale. The file's own names are those of the model's original layout. Where a
tensor has a shape that blocks cannot lie in, the converters of diffusion models store it as a row and keep its shape under
``comfy.gguf.orig_shape.`` and its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.errors import MissingFile, ModelFileError
from nodes.diffusion.checkpoints import Header, TensorInfo

if TYPE_CHECKING:
    import torch

SUFFIX: Final = ".gguf"

_PLAIN: Final = frozenset({"F32", "F16"})
_TRUE_SHAPE: Final = "comfy.gguf.orig_shape."


class GgufFile(Mapping[str, "torch.Tensor"]):
    """The tensors of one GGUF file, each made when it is asked for: float16 where the file has that, else float32.

    Raises:
        MissingFile: there is no such file.
        ModelFileError: it is no whole GGUF file, or has tensors in a form that is not known.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        try:
            reader = GGUFReader(path)
            self._tensors: dict[str, Any] = {tensor.name: tensor for tensor in reader.tensors}
            self.header = Header({name: _info(reader, tensor) for name, tensor in self._tensors.items()}, {})
        except FileNotFoundError as error:
            raise MissingFile(f"expected a model file at {path}, found none; check the name") from error
        except (OSError, ValueError, LookupError, OverflowError, TypeError) as error:
            raise ModelFileError(f"{path.name} is not a whole GGUF file ({error}); download it again") from error
        self._check_forms()

    def _check_forms(self) -> None:
        from diffusers.quantizers.gguf.utils import dequantize_functions

        known = _PLAIN | {kind.name for kind in dequantize_functions}
        name = next((name for name, info in self.header.tensors.items() if info.dtype not in known), None)
        if name is not None:
            raise ModelFileError(
                f"expected tensors in {', '.join(sorted(known))} in {self.path.name}, "
                f"found {name} in {self.header.tensors[name].dtype}; choose a file of another quantisation"
            )

    def __getitem__(self, name: str) -> torch.Tensor:
        import torch
        from diffusers.quantizers.gguf.utils import GGML_QUANT_SIZES, dequantize_functions

        stored = self._tensors[name]
        shape = self.header.tensors[name].shape
        raw = torch.from_numpy(stored.data.copy())  # the mapping is for reading alone
        if stored.tensor_type.name in _PLAIN:
            return raw.reshape(shape)
        block, size = GGML_QUANT_SIZES[stored.tensor_type]
        whole: torch.Tensor = dequantize_functions[stored.tensor_type](
            raw.view(torch.uint8).reshape(-1, size), block, size, torch.float32
        )
        return whole.float().reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _info(reader: Any, tensor: Any) -> TensorInfo:
    given = reader.get_field(_TRUE_SHAPE + tensor.name)
    # the innermost dimension comes first in the file
    shape = tuple(int(side) for side in (reversed(tensor.shape) if given is None else given.contents()))
    info = TensorInfo(tensor.tensor_type.name, shape)
    if info.count != tensor.n_elements:
        raise ValueError(f"tensor {tensor.name} has {tensor.n_elements} numbers and the shape {list(shape)}")
    return info
