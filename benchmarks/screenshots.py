"""Take the pictures of docs/screenshots: run a pipeline, open its pages in a headless Chromium, at two widths.

make screenshots                                  # of minilm, into a store of its own
.venv/bin/python benchmarks/screenshots.py --store artifacts --pipeline digits
"""

import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "screenshots"
LARGEST_BYTES = 400_000
_OFFLINE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"),
)


@dataclass(frozen=True)
class Picture:
    """One page at one size; dark where it is asked for."""

    name: str
    page: Path
    width: int
    height: int
    dark: bool = False


def main() -> None:
    """Run, then take every picture."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="minilm")
    parser.add_argument("--store", type=Path, help="a store to run in (default: a temporary one)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = (asked.store or Path(temporary) / "store").absolute()
        trtflow = (sys.executable, "-m", "flows.cli", "--store", str(store))
        subprocess.run([*trtflow, "run", asked.pipeline], cwd=ROOT, check=True)
        page = max((store / asked.pipeline / "runs").glob("*/report.html"))
        for picture in (
            Picture("report-desktop", page, 1200, 1500),
            Picture("report-phone", page, 500, 1500),
            Picture("report-dark", page, 1200, 1500, dark=True),
            Picture("index", store / asked.pipeline / "index.html", 1200, 1000),
        ):
            _take(picture, Path(temporary) / picture.name)


def _take(picture: Picture, profile: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium on PATH (Debian, Ubuntu: apt install chromium)")
    path = PICTURES / f"{picture.name}.png"
    dark = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if picture.dark else ()
    size = f"--window-size={picture.width},{picture.height}"
    subprocess.run(
        [browser, *_OFFLINE, *dark, f"--user-data-dir={profile}", size, f"--screenshot={path}", picture.page.as_uri()],
        check=True,
        capture_output=True,
    )
    taken = path.stat().st_size
    if taken > LARGEST_BYTES:
        sys.exit(f"{path} takes {taken} bytes, more than {LARGEST_BYTES}: take a smaller part of the page")
    print(f"{path.relative_to(ROOT)}: {taken} bytes")


if __name__ == "__main__":
    main()
