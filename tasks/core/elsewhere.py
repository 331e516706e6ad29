"""Artifacts that were made where packages are installed that this host lacks, for a run that goes on from them."""

from collections.abc import Iterator
from pathlib import Path

from tasks.core.environment import version_of
from tasks.core.errors import StoreError
from tasks.core.observations import Observer
from tasks.core.report import Observation, Recipe, Report
from tasks.core.store import read_report


def made_elsewhere(steps: Path, recipe: Recipe, observer: Observer) -> Report | None:
    """The newest report of a step that this host could not make the same way: alike but for packages it lacks.

    What was observed of user code has to hold too, as far as it can be looked at here: files of the project, and others
    that are there. Versions of packages count unless one of them is not installed: then this host could not do it.
    """
    alike = [report for report in _reports(steps) if _alike(report.recipe, recipe)]
    holding = [report for report in alike if observer.first_change(_seen_here(report.observed or ())) is None]
    return max(holding, key=lambda report: report.started, default=None)


def _alike(made: Recipe, wanted: Recipe) -> bool:
    extra = made.tools.keys() - wanted.tools.keys()
    same = all(made.tools.get(name) == version for name, version in wanted.tools.items())
    lacking = all(version_of(name) is None for name in extra)
    told_apart = {"tools": wanted.tools, "subject": wanted.subject, "lineage": wanted.lineage}
    return same and lacking and made.model_copy(update=told_apart) == wanted


def _seen_here(observed: tuple[Observation, ...]) -> Iterator[Observation]:
    packages = [seen for seen in observed if seen.kind == "package"]
    if all(version_of(seen.name) is not None for seen in packages):
        yield from packages
    for seen in observed:
        if seen.kind != "package" and not (Path(seen.name).is_absolute() and not Path(seen.name).exists()):
            yield seen


def _reports(steps: Path) -> Iterator[Report]:
    for folder in sorted(steps.glob("[!.]*/")):
        if folder.name == "index":
            continue
        try:
            yield read_report(folder)
        except StoreError:  # damaged: found by whoever asks for its key
            continue
