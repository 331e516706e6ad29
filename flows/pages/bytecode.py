"""Compiled templates, kept where Python keeps compiled modules: compiling them takes longer than all else of a page."""

import contextlib
import sys
import uuid
from pathlib import Path

from jinja2 import BytecodeCache
from jinja2.bccache import Bucket


class CompiledTemplates(BytecodeCache):
    """Keeps what jinja2 makes of a template beside it; where that cannot be written, it is made anew each time.

    jinja2 itself refuses what was made of another text, or by another version of Python.
    """

    def __init__(self, templates: Path) -> None:
        # As for modules: a prefix moves the caches out of a tree that is not to be written.
        prefix = sys.pycache_prefix
        self._folder = Path(prefix) / str(templates).lstrip("/") if prefix else templates / "__pycache__"

    def load_bytecode(self, bucket: Bucket) -> None:
        """Load, where there is something to load."""
        with contextlib.suppress(OSError), self._path(bucket).open("rb") as file:
            bucket.load_bytecode(file)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep, unless Python is told to keep no bytecode."""
        if sys.dont_write_bytecode:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._path(bucket)
            partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            partial.write_bytes(bucket.bytecode_to_string())
            partial.replace(path)  # a reader sees all of it or none

    def _path(self, bucket: Bucket) -> Path:
        return self._folder / f"{bucket.key}.{sys.implementation.cache_tag}.jinja2"
