"""What tests look at pages with: a parser, and a browser where there is one."""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

# As a page is opened offline: nothing is looked up, nothing in the background, a profile of its own.
_OFFLINE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"),
)
_VOID = {"meta", "link", "br", "wbr", "path", "use", "img", "hr", "rect"}
_PATIENCE_SECONDS = 120


@dataclass
class Page(HTMLParser):
    """A parsed page: its text, every address in it, and tags that were left open or closed twice."""

    text: str = ""
    addresses: list[str] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._shown = True

    @classmethod
    def read(cls, path: Path) -> "Page":
        """Parse a file."""
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        page.unbalanced += page._open
        page.text = re.sub(r"\s+", " ", page.text)
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [text or "" for name, text in attrs if name in ("src", "href", "action", "srcset", "data")]
        self._shown = tag != "style"
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text += f" {data}" if self._shown else ""


def browser() -> str:
    """The browser of this host; skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on PATH (Debian, Ubuntu: apt install chromium)")
    return found


def browsed(page: Path, profile: Path, width: int) -> str:
    """The page's own markup after a browser of that width has opened it offline."""
    ended = subprocess.run(
        [browser(), *_OFFLINE, f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
