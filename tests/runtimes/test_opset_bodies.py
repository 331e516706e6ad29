"""Operators that have bodies, of their own or of ONNX, are lowered inside as they are outside."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from tasks.core.tensors import Tensors
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.runtimes.opset.lower import lower_opset

X = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
FEEDS: dict[str, "np.ndarray[Any, Any]"] = {
    "x": X,
    "times": np.asarray(3),
    "on": np.array(1, bool),
    "start": X[0],
    "cos": X[:, :, :2],
    "sin": X[:, :, 2:4],
    "theta": X[:, :2, :3],
}
# By operator: version, inputs, what computes y.
MODELS = {
    "If": (
        23,
        "float[2,6,8] x, bool on",
        """y = If (on) <
            then_branch = g () => (float[a,b,c] t) { ends, rest = Split <num_outputs = 2, axis = 1> (x)
                t = Gelu (rest) },
            else_branch = h () => (float[a,b,c] e) { axes = Constant <value_ints = [2]> ()
                e = ReduceMean (x, axes) }
        >""",
    ),
    "Loop": (
        23,
        "float[2,6,8] x, int64 times, bool on",
        """last, y = Loop (times, on, x) <
            body = b (int64 i, bool go, float[p,q,r] v) => (bool more, float[p,q,r] w, float[p,q,k] z) {
                more = Identity (go)
                t = Gelu <approximate = "tanh"> (v)
                first, second, third = Split <num_outputs = 3, axis = 1> (t)
                turned = Concat <axis = 1> (third, second, first)
                axes = Constant <value_ints = [2]> ()
                z = ReduceMean (turned, axes)
                w = Mish (turned) }
        >""",
    ),
    "Scan": (
        23,
        "float[2,6,8] x, float[6,8] start",
        """last, y = Scan <num_scan_inputs = 1, body = b (float[6,8] s, float[6,8] v) => (float[6,8] w, float[6,k] z) {
                t = Gelu (v)
                w = Add (s, t)
                axes = Constant <value_ints = [1]> ()
                z = ReduceL1 (w, axes) }
        > (start, x)""",
    ),
    "functions of the model": (22, "float[2,6,8] x", "y = mine.outer <e = 1e-3> (x)"),
    "GroupNormalization, scaled by group": (
        20,
        "float[n,6,w] x",
        """s = Constant <value_floats = [1.0, 2.0]> ()
        y = GroupNormalization <num_groups = 2> (x, s, s)""",
    ),
    "GroupNormalization": (
        21,
        "float[n,6,w] x",
        """s = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> ()
        y = GroupNormalization <num_groups = 3> (x, s, s)""",
    ),
    "RMSNormalization": (
        23,
        "float[n,6,8] x",
        """s = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> ()
        y = RMSNormalization <axis = -1> (x, s)""",
    ),
    "Attention": (23, "float[n,w,8] x", "y = Attention <q_num_heads = 2, kv_num_heads = 2, is_causal = 1> (x, x, x)"),
    "RotaryEmbedding": (
        23,
        "float[n,w,8] x, float[n,w,2] cos, float[n,w,2] sin",
        "y = RotaryEmbedding <num_heads = 2> (x, cos, sin)",
    ),
    "Swish": (24, "float[n,w,8] x", "y = Swish <alpha = 1.5> (x)"),
    "AffineGrid": (
        20,
        "float[2,2,3] theta",
        """size = Constant <value_ints = [2, 3, 4, 7]> ()
        y = AffineGrid <align_corners = 0> (theta, size)""",
    ),
}
FUNCTIONS = """
<domain: "mine", opset_import: ["" : 22, "mine" : 1]>
outer <e: float> (x) => (y) { t = mine.inner <eps: float = @e> (x, , x) y = Mish (t) }
<domain: "mine", opset_import: ["" : 18]>
inner <eps: float> (x, unused, z) => (y) { e = Constant <value_float: float = @eps> () a = Add (x, e)
    axes = Constant <value_ints = [-1]> () m = ReduceMean <keepdims = 1> (a, axes) y = Sub (a, m) }
"""


def newer(what: str) -> onnx.ModelProto:
    opset, inputs, nodes = MODELS[what]
    rank = {"Loop": "[s,a,b,c]", "AffineGrid": "[a,b,c,d]"}.get(what, "[a,b,c]")
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "mine" : 1]> g ({inputs}) => (float{rank} y) '
    return parser.parse_model(f"{head} {{ {nodes} }} {FUNCTIONS if 'mine.' in nodes else ''}")


def outputs(model: onnx.ModelProto, path: Path, feeds: Tensors) -> Tensors:
    onnx.save(model, path)
    return run_unoptimised(path, [feeds])[0]


@pytest.mark.parametrize("what", MODELS)
def test_what_is_inside_is_lowered_too(what: str, tmp_path: Path) -> None:
    model = newer(what)
    feeds: Tensors = {value.name: FEEDS[value.name] for value in model.graph.input}
    older = lower_opset(copy.deepcopy(model), 17, 8)
    assert not older.functions
    choices = (True, False) if what == "If" else (True,)
    for on in choices:
        given = {**feeds, **({"on": np.asarray(on)} if "on" in feeds else {})}
        expected = outputs(model, tmp_path / "newer.onnx", given)["y"]
        actual = outputs(older, tmp_path / "older.onnx", given)["y"]
        assert actual.shape == expected.shape
        assert np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max() < 5e-6


def test_what_a_call_does_not_need_is_left_out() -> None:
    """TensorRT 8.6 cannot build every Range, and no TensorRT an If whose bodies differ in rank."""
    names = {what: {node.op_type for node in lower_opset(newer(what), 17, 8).graph.node} for what in MODELS}
    assert "Range" not in names["RMSNormalization"]
    assert "If" not in names["AffineGrid"]
    assert "If" in names["If"]
