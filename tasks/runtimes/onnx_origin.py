"""Where nodes of an ONNX graph come from in the source: what torch's exporter noted of them."""

import ast
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import onnx

# The modules around a node, outermost first, then the operation itself.
_SCOPES = "pkg.torch.onnx.name_scopes"
# The calls that led to it, as Python prints them.
_TRACE = "pkg.torch.onnx.stack_trace"
Reader: TypeAlias = Callable[[str], str]
_LINE = re.compile(r'File "([^"]+)", line (\d+)')


def modules_of(model: "onnx.ModelProto") -> dict[str, str]:
    """Path of the module that makes each tensor, where the exporter noted it."""
    return _noted(model, _SCOPES, _innermost)


def lines_of(model: "onnx.ModelProto") -> dict[str, str]:
    """File and line of the source that make each tensor, where the exporter noted them."""
    return _noted(model, _TRACE, _last_line)


def _noted(model: "onnx.ModelProto", key: str, read: Reader) -> dict[str, str]:
    noted: dict[str, str] = {}
    for node in model.graph.node:
        text = next((prop.value for prop in node.metadata_props if prop.key == key), "")
        noted |= dict.fromkeys(node.output, read(text))
    return noted


def _innermost(scopes: str) -> str:
    try:
        modules = [str(scope) for scope in ast.literal_eval(scopes or "[]")][:-1]
    except (ValueError, SyntaxError, TypeError):  # not torch's way to write it: it only tells
        return ""
    return modules[-1] if modules else ""


def _last_line(trace: str) -> str:
    found = _LINE.findall(trace)
    return ":".join(found[-1]) if found else ""
