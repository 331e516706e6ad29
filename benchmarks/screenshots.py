"""Take the pictures of docs/screenshots: run a pipeline, open its pages in a headless Chromium, at two widths.

make screenshots                                  # of minilm, into a store of its own
.venv/bin/python benchmarks/screenshots.py --store artifacts --pipeline digits
"""

import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.pictures import PICTURES, ROOT, browser, check_size

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
    path = PICTURES / f"{picture.name}.png"
    dark = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if picture.dark else ()
    size = f"--window-size={picture.width},{picture.height}"
    subprocess.run(
        [
            browser(),
            *_OFFLINE,
            *dark,
            f"--user-data-dir={profile}",
            size,
            f"--screenshot={path}",
            picture.page.as_uri(),
        ],
        check=True,
        capture_output=True,
    )
    check_size(path)


if __name__ == "__main__":
    main()
