"""What the exporter took for granted about the dynamic dims, and does not say (in a worker).

It follows the module's code with one set of sizes. Where the code asks for a size it goes one way, and notes in the
exported program which sizes that holds for. ONNX has no place for such a note: elsewhere the graph may be silently
wrong. It need not be: of every LSTM it notes that the batch is not 1, and the graph is right there all the same. So a
size that breaks an assumption is a suspicion, and module and graph are run there.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tasks.core.errors import UserCodeError
from tasks.core.signature import DimRange, Signature

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Sizes: TypeAlias = dict[str, int]
# Sizes at which one broken assumption is tried: its ends, and what lies between.
_MOST_TRIED = 4
# An assumption about one dim is tried with every size of its range up to so many, about several with the ends of each.
_MOST_SIZES = 512
_CURE = (
    "the module's code asks for that size (a Python `if` on a shape does): mend it, or narrow `dims` in the YAML "
    "to sizes that take the same way"
)


def check_assumptions(
    program: "ExportedProgram", names: Sequence[str], signature: Signature, agree: Callable[[Sizes], bool]
) -> None:
    """Raise UserCodeError when the graph holds only for some sizes of the named dims; `names` orders the inputs.

    `agree` runs module and graph at some sizes, the other dims at their opt.
    """
    symbols = dict(_symbols(program, names, signature))
    for symbol, name in symbols.items():
        _check_range(name, signature.dims[name], program.range_constraints.get(symbol), agree)
    for assumption in _assumptions(program):
        if assumption.free_symbols and assumption.free_symbols <= symbols.keys():
            _check_sizes(list(_breaking(assumption, symbols, signature)), agree)


def _symbols(program: "ExportedProgram", names: Sequence[str], signature: Signature) -> Iterator[tuple[Any, str]]:
    """Pair the symbol of each dynamic axis with the dim's name."""
    for name, value in zip(names, _inputs(program), strict=True):
        for size, dim in zip(value.shape, signature.inputs[name].shape, strict=True):
            expression = getattr(getattr(size, "node", None), "expr", None)
            if isinstance(dim, str) and getattr(expression, "is_symbol", False):
                yield expression, dim


def _inputs(program: "ExportedProgram") -> list[Any]:
    wanted = program.graph_signature.user_inputs
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return [values[name] for name in wanted if isinstance(name, str)]


def _assumptions(program: "ExportedProgram") -> Iterator[Any]:
    """What was noted about sizes known at the input; what is known later (`.item()`) the graph asserts itself."""
    fakes = (getattr(value, "fake_mode", None) for value in _inputs(program))
    environment: Any = next((fake.shape_env for fake in fakes if fake is not None), None)
    if environment is not None:
        for assertion in itertools.chain.from_iterable(environment.deferred_runtime_asserts.values()):
            yield environment.replace(assertion.expr)


def _check_range(
    name: str,
    wanted: DimRange,
    found: Any,  # noqa: ANN401 - torch's own, not exported
    agree: Callable[[Sizes], bool],
) -> None:
    if found is None or (found.lower <= wanted.min and wanted.max <= found.upper):
        return
    outside = {size for size in (wanted.min, found.lower - 1) if size < found.lower}
    outside |= {size for size in (found.upper + 1, wanted.max) if size > found.upper}
    if not all(agree({name: int(size)}) for size in sorted(outside)):
        raise UserCodeError(
            f"the exported graph holds for {name} from {found.lower} to {found.upper} only, "
            f"`dims.{name}` goes from {wanted.min} to {wanted.max}",
            _CURE,
        )


def _breaking(assumption: Any, symbols: dict[Any, str], signature: Signature) -> Iterator[Sizes]:  # noqa: ANN401
    """Sizes at which an assumption does not hold."""
    used = sorted(assumption.free_symbols, key=str)
    dims = [signature.dims[symbols[symbol]] for symbol in used]
    for sizes in itertools.product(*(_sizes(dim, alone=len(used) == 1) for dim in dims)):
        if assumption.subs(dict(zip(used, sizes, strict=True))) == False:  # noqa: E712 - sympy's false is not False
            yield {symbols[symbol]: size for symbol, size in zip(used, sizes, strict=True)}


def _check_sizes(breaking: list[Sizes], agree: Callable[[Sizes], bool]) -> None:
    stride = max(1, -(-len(breaking) // (_MOST_TRIED - 1)))
    for sizes in (*breaking[::stride], *breaking[-1:]):
        if not agree(sizes):
            where = ", ".join(f"{name} = {size}" for name, size in sizes.items())
            raise UserCodeError(f"the exported graph computes something else where {where}", _CURE)


def _sizes(dim: DimRange, *, alone: bool) -> list[int]:
    every = range(dim.min, dim.max + 1)
    if alone and len(every) <= _MOST_SIZES:
        return list(every)
    near = (dim.min, dim.min + 1, dim.opt, dim.max - 1, dim.max)
    spread = every[:: -(-len(every) // _MOST_SIZES)] if alone else ()
    return sorted({size for size in (*near, *spread) if size in every})
