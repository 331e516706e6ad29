"""Packing of int4 weights for ModelOpt, which does it in C++ that it compiles on first use (in its worker only).

A base install has no compiler, and compiling would write into site-packages. ModelOpt's own fallback in Python takes
seconds for millions of weights, and cannot be reached where `cppimport` is not installed.
"""

import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_EXTENSIONS = "modelopt.onnx.quantization.extensions"
_SIGNED, _UNSIGNED = (-8, 7), (0, 15)


class NumpyPacking:
    """What ModelOpt expects of its compiled extension."""

    @staticmethod
    def round_and_pack(
        signed: bool,  # noqa: FBT001 - the extension's own signature
        values: "NDArray[np.generic]",
        count: int,
        out: "NDArray[np.int8]",
        out_count: int,
    ) -> int:
        """Round `count` values to 4 bits and write two into each of the `out_count` bytes, the first one lowest."""
        import numpy as np

        low, high = _SIGNED if signed else _UNSIGNED
        rounded = np.rint(np.clip(values[:count].astype(np.float32), low, high)).astype(np.int8)
        out[:out_count] = (rounded[1::2] << 4) | (rounded[0::2] & 0x0F)
        return out_count


def provide() -> None:
    """Stand in for the extension in this process, before ModelOpt looks for it."""
    module = types.ModuleType(_EXTENSIONS)
    module.round_and_pack_ext = NumpyPacking  # type: ignore[attr-defined]
    sys.modules[_EXTENSIONS] = module
