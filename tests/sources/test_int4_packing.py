"""The stand-in packs bit for bit as ModelOpt's own Python does."""

import numpy as np
import pytest

from tasks.sources.int4_packing import NumpyPacking


@pytest.mark.parametrize("signed", [True, False])
def test_packing_is_modelopts(signed: bool) -> None:
    from modelopt.onnx.quantization.quant_utils import pack_float32_to_4bit_optimized

    values = np.random.default_rng(3).normal(scale=9, size=256).astype(np.float32)
    values[:6] = [0.5, 1.5, -0.5, 100.0, -100.0, 7.5]
    out = np.zeros(128, np.int8)
    assert NumpyPacking.round_and_pack(signed, values, 256, out, 128) == 128
    assert np.array_equal(out.astype(np.uint8), pack_float32_to_4bit_optimized(values, signed))
