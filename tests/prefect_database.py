"""The database of a Prefect server, made once for all tests: what Prefect does to make one takes it ten seconds."""

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from tasks.core.locks import file_lock

_MAKE = """
import asyncio
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


@dataclass(frozen=True)
class Database:
    """A database without any runs, in a folder that the processes of the tests share."""

    folder: Path

    def put(self, home: Path) -> None:
        """Copy it to where a server will find it as its own."""
        kept = self.folder / "made" / "prefect.db"
        with file_lock(self.folder / "making", threading.Event()):
            if not kept.exists():
                self._make(kept)
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, home / "prefect.db")

    def _make(self, kept: Path) -> None:
        home = self.folder / "partial"
        home.mkdir(parents=True)
        told = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
        }
        made = subprocess.run(
            [sys.executable, "-c", _MAKE], env={**os.environ, **told}, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        home.rename(kept.parent)
