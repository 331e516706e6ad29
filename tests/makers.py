"""A recipe, and a step's work that counts how often it was done: what tests of stores make artifacts with."""

from collections.abc import Callable
from pathlib import Path

from tasks.core.report import Observation, Recipe
from tasks.core.store import Made, Store

RECIPE = Recipe(pipeline="digits", step="fold", version=1, params={"size": 3})


class Maker:
    """A step's work, which counts how often it was done."""

    def __init__(self, content: bytes = b"model", observe: Callable[[], tuple[Observation, ...]] | None = None) -> None:
        self.calls = 0
        self._content = content
        self._observe = observe

    def __call__(self, folder: Path) -> Made:
        self.calls += 1
        (folder / "model.onnx").write_bytes(self._content)
        (folder / "weights").write_bytes(b"w" * 1000)
        return Made({"nodes": 1}, self._observe() if self._observe else None)


def hidden(store: Store) -> list[Path]:
    return [path for path in store.root.rglob(".*") if path.suffix in (".partial", ".lock")]


def produce(store: Store) -> tuple[Path, Maker]:
    maker = Maker()
    return store.folder(store.produce(RECIPE, maker).artifact), maker


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])
