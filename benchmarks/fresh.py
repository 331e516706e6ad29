"""Clone the repository into empty folders and run its two commands there, each alone: docs/evidence/fresh.json.

    python3 benchmarks/fresh.py [--output docs/evidence/fresh.json]

Standard library only, so that it runs before anything is installed. The environment is emptied but for PATH and what
pip and TLS need to reach a package index; HOME and TMPDIR are empty folders.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEPT = ("PATH", "LANG")
KEPT_PREFIXES = ("PIP_", "SSL_", "REQUESTS_", "CURL_")
LINES = 14


def fresh(command: list[str], folder: Path) -> dict[str, object]:
    """Clone, run one command, and keep its last lines."""
    clone, home, temporary = folder / "clone", folder / "home", folder / "tmp"
    for place in (home, temporary):
        place.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    environment = {**kept, "HOME": str(home), "TMPDIR": str(temporary)}
    begin = time.monotonic()
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begin
    left = sorted(path.name for path in temporary.iterdir())
    lines = done.stdout.splitlines()[-LINES:]
    if done.returncode != 0:
        lines += done.stderr.splitlines()[-LINES:]
    return {
        "command": " ".join(command),
        "exit": done.returncode,
        "seconds": round(seconds, 1),
        "left_in_tmp": left,
        "last_lines": [line.replace(str(folder), "...") for line in lines],
    }


def main() -> None:
    """Run both commands in clones of the last commit, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/fresh.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trtflow-fresh-") as scratch:
        runs = [
            fresh(["make", "demo"], Path(scratch) / "demo"),
            fresh(["bash", ".ci/run"], Path(scratch) / "test"),
        ]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    evidence = {
        "command": "python3 benchmarks/fresh.py",
        "commit": commit.stdout.strip(),
        "machine": {"os": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "runs": runs,
    }
    text = json.dumps(evidence, indent=1)
    print(text)
    arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
