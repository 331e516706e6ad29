"""The page of a pipeline: its newest runs, and what they measured over time."""

from flows import story
from flows.history import Past
from flows.pages.render import render
from flows.pages.run_page import REPORT_PAGE
from tasks.core.promotions import Promotion

INDEX_PAGE = "index.html"


def index_page(past: Past, current: Promotion | None, pictures: dict[str, str], missing: str) -> str:
    """Make the page; links lead to the pages that lie below it."""
    runs = past.root / past.pipeline / "runs"
    linked = {run.outcome.run for run in past.runs if (runs / run.outcome.run / REPORT_PAGE).is_file()}
    return render(
        "index.html",
        {
            "pipeline": past.pipeline,
            "runs": past.runs,
            "linked": linked,
            "page": REPORT_PAGE,
            "promotions": past.promotions[::-1],
            "signer_of": story.signer_of,
            "in_force": story.in_force(current),
            "pictures": pictures,
            "missing": missing,
        },
    )
