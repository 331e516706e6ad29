"""Take the pictures of docs/screenshots/ui-*: `trtflow up` with the digits example, in a headless Chromium.

make ui-screenshots
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser import Tab, opened  # noqa: E402 - found by the line above
from tests.projects import Project  # noqa: E402
from tests.services import Service, service  # noqa: E402

PICTURES = ROOT / "docs" / "screenshots"
LARGEST_BYTES = 400_000
WIDTH = 1400
METADATA = (
    "[...document.querySelectorAll('.schema-form-property')].find("
    "property => property.innerText.startsWith('metadata')).querySelector('textarea')"
)
SUBMIT = "document.querySelector('button[type=submit]')"


def main() -> None:
    """Run twice, then take every picture."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium on PATH (Debian, Ubuntu: apt install chromium)")
    with tempfile.TemporaryDirectory() as temporary:
        project = _project(Path(temporary) / "project")
        with service(project) as server, opened(browser) as tab:
            server.convert("digits")
            again = server.convert("digits", rebenchmark=True)
            assert again["state_type"] == "COMPLETED", again["state"]
            _take_all(server, tab, again)


def _project(folder: Path) -> Project:
    """The digits example on its own, converted every night and after every retraining."""
    (folder / "models").mkdir(parents=True)
    for name in ("digits.py", "digits.safetensors"):
        shutil.copy(ROOT / "models" / name, folder / "models")
    config = yaml.safe_load((ROOT / "pipelines.yaml").read_text())
    digits = {**config["pipelines"]["digits"], "engines": [{"runtime": "onnxruntime"}]}
    project = Project(folder)
    project.write(digits={**digits, "schedule": {"cron": "0 3 * * *"}, "on_retrain": True})
    return project


def _take_all(server: Service, tab: Tab, run: dict[str, Any]) -> None:
    text = {"flow_run_id": {"any_": [run["id"]]}, "type": {"any_": ["markdown"]}}
    (artifact,) = server.ask("artifacts", artifacts=text)
    deployment = server.get("deployments/name/convert/digits")
    tab.go(f"{server.address}/dashboard")
    tab.show("Flow Runs 2 total")
    _take(tab, "ui-dashboard", 800)
    tab.go(f"{server.address}/runs/flow-run/{run['id']}")
    tab.until("!!document.querySelector('canvas')")
    tab.show("digits promote")
    tab.rest(10)  # the graph is drawn in software
    _take(tab, "ui-run", 1000)
    tab.go(f"{server.address}/artifacts/artifact/{artifact['id']}")
    tab.show("digits: passed", "History")
    _take(tab, "ui-text", 1700)
    tab.go(f"{server.address}/deployments/deployment/{deployment['id']}/run")
    tab.show("metadata", "Submit")
    tab.write(METADATA, '["no object"]', instead=True)
    tab.click(SUBMIT)
    tab.show("is not of type 'object'")
    _take(tab, "ui-form", 1500)


def _take(tab: Tab, name: str, height: int) -> None:
    path = PICTURES / f"{name}.png"
    tab.picture(path, WIDTH, height)
    taken = path.stat().st_size
    if taken > LARGEST_BYTES:
        sys.exit(f"{path} takes {taken} bytes, more than {LARGEST_BYTES}: take a smaller part of the page")
    print(f"{path.relative_to(ROOT)}: {taken} bytes")


if __name__ == "__main__":
    main()
