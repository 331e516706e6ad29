"""Layer tables from what the inspectors of TensorRT 8.6, 10, 11 and RTX tell, in small samples as documented."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import StepError
from tasks.runtimes.base import LayerTime
from tasks.runtimes.engine_layers import Graph, Layer, LayerTable, join, read_inspection, summary
from tasks.runtimes.layer_times import write_layers

GRAPH = Graph(
    operators={
        "/conv1/Conv": "Conv",
        "/relu/Relu": "Relu",
        "/layer1/layer1.0/conv1/Conv": "Conv",
        "node_add[0]": "Add",
        "/head/Gemm": "Gemm",
        "/gone/Identity": "Identity",
    }
)


def tensor(name: str, told: str) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": [8, 64, 56, 56], "Format/Datatype": told}


HALF = "Channel major FP16 format where channel % 8 == 0"
# As 8.6 writes it: a name of ours may hold a control character, and it does not escape the one between the nodes.
OLD: dict[str, Any] = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to /conv1/Conv + /relu/Relu",
            "LayerType": "Reformat",
            "Inputs": [tensor("image", "Row major linear FP32")],
            "Outputs": [tensor("Reformatted Input Tensor 0 to /conv1/Conv + /relu/Relu", HALF)],
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
            "TacticValue": "0x00000000000003ea",
            "StreamId": 0,
            "Metadata": "",
        },
        {
            "Name": "/conv1/Conv + /relu/Relu",
            "LayerType": "CaskConvolution",
            "Inputs": [tensor("Reformatted Input Tensor 0 to /conv1/Conv + /relu/Relu", HALF)],
            "Outputs": [tensor("/relu/Relu_output_0", HALF)],
            "ParameterType": "Convolution",
            "Weights": {"Type": "Half", "Count": 9408},
            "TacticName": "sm80_xmma_fprop_implicit_gemm_indexed_f16f16",
            "TacticValue": "0xf067e6205da31c2e",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /relu/Relu]",
        },
        {
            "Name": "{ForeignNode[/layer1/layer1.0/conv1/Conv.../head/Gemm]}",
            "LayerType": "Myelin",
            "Inputs": [tensor("/relu/Relu_output_0", "Thirty-two wide channel vectorized row major Int8 format")],
            "Outputs": [tensor("logits", "Row major linear FP32")],
            "Metadata": "\x1e".join(
                f"[ONNX Layer: {node}]" for node in ("node_add[0]", "/layer1/layer1.0/conv1/Conv", "/head/Gemm")
            ),
        },
    ],
    "Bindings": ["image", "logits"],
}


def recorded(found: dict[str, Any]) -> str:
    return json.dumps(found).replace("\\u001e", "\x1e").replace("\\u001f", "\x1f")


def times(**microseconds: float) -> list[LayerTime]:
    return [LayerTime(name=name, kind="", nanoseconds=round(us * 1000)) for name, us in microseconds.items()]


def by_name(table: LayerTable) -> dict[str, Layer]:
    return {layer.name: layer for layer in table.layers}


def test_layers_of_8_6_are_joined_with_their_times_and_nodes() -> None:
    found = read_inspection(recorded(OLD))
    timed = times(**{str(layer["Name"]): 10.0 * (index + 1) for index, layer in enumerate(OLD["Layers"])})
    table = join(found, timed, GRAPH)
    reformat, convolution, region = table.layers
    assert (reformat.reformat, reformat.nodes, reformat.precision) == (True, (), "fp32 -> fp16")
    assert convolution.nodes == ("/conv1/Conv", "/relu/Relu")
    assert convolution.operators == ("Conv", "Relu")
    assert (convolution.precision, convolution.microseconds, convolution.reformat) == ("fp16", 20.0, False)
    assert convolution.tactic.startswith("sm80_")
    assert region.nodes == ("node_add[0]", "/layer1/layer1.0/conv1/Conv", "/head/Gemm")
    assert region.precision == "int8 -> fp32"
    assert region.share == pytest.approx(0.5)
    assert table.nodes_without_layer == ("/gone/Identity",)


def test_summary_counts_what_a_report_tells() -> None:
    found = read_inspection(recorded(OLD))
    timed = [*times(**{str(OLD["Layers"][1]["Name"]): 30.0}), *times(beside=10.0)]
    table = join(found, timed, GRAPH)
    metrics = summary(table, found, timed)
    assert (metrics.layers, metrics.fused, metrics.reformats) == (4, 2, 1)
    assert (metrics.untimed, metrics.unknown, metrics.detailed) == (2, 1, True)
    assert (metrics.total_microseconds, metrics.reformat_share) == (40.0, 0.0)
    assert [layer.name for layer in metrics.top[:2]] == ["/conv1/Conv + /relu/Relu", "beside"]
    assert metrics.by_precision["fp16"] == pytest.approx(0.75)
    assert (metrics.nodes, metrics.nodes_without_layer) == (5, 1)


def test_myelin_layers_of_10_tell_their_nodes_in_their_metadata() -> None:
    found = read_inspection(
        recorded(
            {
                "Layers": [
                    {
                        "Name": "__myl_MulAdd_myl0_3",
                        "LayerType": "kgen",
                        "Inputs": [
                            {"Name": "ids", "Location": "Device", "Dimensions": [8], "Format/Datatype": "Int64"},
                            {"Name": "a", "Location": "Device", "Dimensions": [8], "Format/Datatype": "Half"},
                        ],
                        "Outputs": [
                            {"Name": "b", "Location": "Device", "Dimensions": [8], "Format/Datatype": "BFloat16"}
                        ],
                        "TacticName": "__myl_MulAdd_0x1d7d0c4b5d6e9a6b",
                        "StreamId": 0,
                        "Metadata": "[ONNX Layer: /conv1/Conv]\x1f[ONNX Layer: /relu/Relu]",
                    }
                ],
                "Bindings": ["ids", "b"],
            }
        )
    )
    (layer,) = join(found, times(__myl_MulAdd_myl0_3=5.0), GRAPH).layers
    assert (layer.kind, layer.nodes, layer.precision) == ("kgen", ("/conv1/Conv", "/relu/Relu"), "fp16 -> bf16")
    assert layer.share == 1.0


@pytest.mark.parametrize("key", ["DataType", "Datatype"])
def test_types_of_11_and_rtx_stand_apart_from_the_format(key: str) -> None:
    side = {"Name": "x", "Location": "Device", "Dimensions": [8], "Format": "Row major linear FP32 format (kLINEAR)"}
    found = read_inspection(
        recorded(
            {
                "Layers": [
                    {
                        "Name": "gemm_0",
                        "LayerType": "gemm",
                        "Inputs": [side | {key: "FP8"}],
                        "Outputs": [side | {key: "Half"}],
                        "Metadata": "[ONNX Layer: /head/Gemm]",
                    }
                ],
                "I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "Float", "ProfileInfo": []}],
                "Engine Metadata": {},
            }
        )
    )
    (layer,) = join(found, times(gemm_0=1.0), GRAPH).layers
    assert (layer.nodes, layer.precision) == (("/head/Gemm",), "fp8 -> fp16")


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("/conv1/Conv + /relu/Relu", ("/conv1/Conv", "/relu/Relu")),
        ("PWN(PWN(/relu/Relu), node_add[0])", ("/relu/Relu",)),  # brackets in a name are beyond what a name tells
        ("node_add[0]", ("node_add[0]",)),
        ("{ForeignNode[/layer1/layer1.0/conv1/Conv.../head/Gemm]}", ("/layer1/layer1.0/conv1/Conv", "/head/Gemm")),
        ("/conv1/Conv || /layer1/layer1.0/conv1/Conv", ("/conv1/Conv", "/layer1/layer1.0/conv1/Conv")),
        ("(Unnamed Layer* 3) [Shuffle]", ()),
        ("Reformatting CopyNode for Output Tensor 0 to /head/Gemm", ()),
    ],
)
def test_names_alone_tell_the_nodes_that_they_hold(name: str, nodes: tuple[str, ...]) -> None:
    found = read_inspection(json.dumps({"Layers": [name], "Bindings": []}))
    table = join(found, times(**{name: 1.0}), GRAPH)
    assert by_name(table)[name].nodes == nodes
    assert not summary(table, found, times(**{name: 1.0})).detailed


def test_times_of_one_name_are_added_and_a_runtime_without_inspector_has_times(tmp_path: Path) -> None:
    timed = [*times(loop=1.0), *times(loop=2.0)]
    metrics = write_layers(tmp_path / "layers.json", "", tuple(timed), GRAPH)
    assert (metrics.layers, metrics.total_microseconds, metrics.detailed) == (1, 3.0, False)
    table = LayerTable.model_validate_json((tmp_path / "layers.json").read_bytes())
    assert by_name(table)["loop"].share == 1.0


@pytest.mark.parametrize("text", ['{"Layers": [', '{"Layers": 3}'])
def test_json_that_is_none_is_a_plain_error(text: str) -> None:
    with pytest.raises(StepError, match=r"inspector's JSON"):
        read_inspection(text)
