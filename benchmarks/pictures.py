"""The pictures of docs/screenshots: the browser that draws them, and how large one may be."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "screenshots"
LARGEST_BYTES = 400_000


def browser() -> str:
    """The browser of this host; ends the program where there is none."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        sys.exit("no chromium on PATH (Debian, Ubuntu: apt install chromium)")
    return found


def check_size(path: Path) -> None:
    """Say how large a picture is; end the program where that is too much for a repository."""
    taken = path.stat().st_size
    if taken > LARGEST_BYTES:
        sys.exit(f"{path} takes {taken} bytes, more than {LARGEST_BYTES}: take a smaller part of the page")
    print(f"{path.relative_to(ROOT)}: {taken} bytes")
