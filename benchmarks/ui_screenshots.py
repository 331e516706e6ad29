"""Take the pictures of docs/screenshots/ui-*: `trtflow up` with the digits example, in a headless Chromium.

make ui-screenshots
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.digits_alone import digits_alone
from benchmarks.pictures import PICTURES, browser, check_size
from tests.browser import Tab, opened
from tests.services import Service, service

WIDTH = 1400
METADATA = (
    "[...document.querySelectorAll('.schema-form-property')].find("
    "property => property.innerText.startsWith('metadata')).querySelector('textarea')"
)
SUBMIT = "document.querySelector('button[type=submit]')"


def main() -> None:
    """Run twice, then take every picture."""
    chromium = browser()  # before anything is run
    with tempfile.TemporaryDirectory() as temporary:
        project, digits = digits_alone(Path(temporary) / "project")
        project.write(digits={**digits, "schedule": {"cron": "0 3 * * *"}})
        with service(project) as server, opened(chromium) as tab:
            server.convert("digits")
            again = server.convert("digits", rebenchmark=True)
            assert again["state_type"] == "COMPLETED", again["state"]
            _take_all(server, tab, again)


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
    check_size(path)


if __name__ == "__main__":
    main()
