"""What onnxruntime raises, in words that make sense without its source."""

import contextlib
import re
from collections.abc import Iterator

from tasks.core.errors import CannotRun, StepError

_BOUND = "Error in execution: "


@contextlib.contextmanager
def plain_errors(doing: str) -> Iterator[None]:
    """Turn onnxruntime's exceptions, which have no base class, into a StepError that reads without its source."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        yield
    except (
        state.EPFail,
        state.EngineError,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    ) as error:
        raise _plain(str(error), doing) from error
    except RuntimeError as error:  # a run with bound inputs fails so
        if not str(error).startswith(_BOUND):
            raise
        raise _plain(str(error).removeprefix(_BOUND), doing) from error


def _plain(text: str, doing: str) -> StepError:
    kernel = re.search(r"NOT_IMPLEMENTED.*?implementation for (\S+) node with name '([^']*)'", text, re.DOTALL)
    if kernel or "NOT_IMPLEMENTED" in text:
        which = f"{kernel[1]} in the types of node '{kernel[2]}'" if kernel else "a node of this graph"
        cure = "use another precision here, or build this one for a runtime that has such kernels"
        return CannotRun(f"onnxruntime has no CPU kernel for {which}", cure, text)
    said = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    said = re.sub(r"Load model from .*? failed:\s*", "", said)
    said = re.sub(r"Non-zero status.*?running (\S+) node\. Name:'([^']*)' Status Message: ", r"\1 node '\2': ", said)
    # Source file, function and the condition that did not hold.
    said = re.sub(r"/\S+\.(?:h|cc|cpp):\d+ .*?(?:was false\. |\) (?=[A-Z]))", "", said, flags=re.DOTALL)
    return StepError(f"{doing} failed in onnxruntime: {' '.join(said.split())}", detail=text)
