"""What a Python module defines at its top level, found without running it."""

import ast
import warnings
from collections.abc import Iterator
from functools import lru_cache

_FUNCTIONS_AND_CLASSES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OWN_SCOPE = (*_FUNCTIONS_AND_CLASSES, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# What fills a module in a way that only running it shows.
_DYNAMIC = {"__getattr__", "*", "globals"}


@lru_cache(maxsize=32)  # a pipeline names several functions of one module
def defined_names(source: bytes) -> frozenset[str] | None:
    """List the names that importing `source` defines; None where it may define any name.

    Raises SyntaxError where the source is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the user's string escapes: not ours to report here
        try:
            tree = ast.parse(source)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error) or "too deeply nested") from error
    names = {name for node in _top_level(tree) for name in _bound(node)}
    # A function that says `global build` may define it as well.
    names |= {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    return None if names & _DYNAMIC else frozenset(names)


def _top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Walk what runs when the module is imported, also inside if, try, for and with, but no function or class."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        declares_only = isinstance(node, ast.AnnAssign) and node.value is None
        if not declares_only and not isinstance(node, _OWN_SCOPE):
            waiting.extend(ast.iter_child_nodes(node))


def _bound(node: ast.AST) -> Iterator[str]:
    """Give the names that this one node defines."""
    if isinstance(node, _FUNCTIONS_AND_CLASSES):
        yield node.name
    elif isinstance(node, ast.Import):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.Name) and (isinstance(node.ctx, ast.Store) or node.id == "globals"):
        yield node.id
