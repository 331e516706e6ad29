"""What was built before in the same way for other weights: found in the reports of the store, in no index of its own.

A report is complete as soon as it is there, and goes with its artifact: nothing has to be kept in step with it.
"""

from collections.abc import Iterator
from contextlib import suppress

from pydantic import ValidationError

from tasks.core.errors import StoreError
from tasks.core.report import Artifact, Recipe, Report
from tasks.core.store import Store, read_report
from tasks.runtimes.base import CARD, ENGINE, BuildMetrics, EarlierBuild

# A pipeline whose graph keeps changing has many; a retrain is of one of the last.
_MOST = 4


def earlier_builds(store: Store, recipe: Recipe, *, refittable: bool) -> tuple[EarlierBuild, ...]:
    """One for each structure of the graph, the newest first; with its folder, verified, where it may be refitted."""
    found: dict[str, list[tuple[Report, BuildMetrics]]] = {}
    for report in sorted(_alike(store, recipe), key=lambda report: report.started, reverse=True):
        metrics = _metrics(report)
        if metrics is not None and metrics.structure:
            found.setdefault(metrics.structure, []).append((report, metrics))
    return tuple(
        _summed_up(store, structure, builds, refittable=refittable) for structure, builds in list(found.items())[:_MOST]
    )


def exported_of(store: Store, artifact: Artifact) -> Artifact | None:
    """The export that a graph was made from, step by step; None where it is gone."""
    waiting, seen = [artifact.folder], set[str]()
    while waiting:
        folder = waiting.pop()
        seen.add(folder)
        with suppress(StoreError):
            report = read_report(store.root / folder)
            if report.step == "export":
                return report.artifact
            waiting += [name for name in report.recipe.lineage if name not in seen]
    return None


def _alike(store: Store, recipe: Recipe) -> Iterator[Report]:
    """Reports of artifacts of the step that were made from other inputs, and the same in all else."""
    for folder in sorted((store.root / recipe.pipeline / recipe.step).glob("[!.]*/")):
        with suppress(StoreError):  # the index, or damaged: found by whoever asks for its key
            report = read_report(folder)
            told = {"inputs": recipe.inputs, "lineage": recipe.lineage, "subject": recipe.subject}
            if report.recipe.model_copy(update=told) == recipe:
                yield report


def _metrics(report: Report) -> BuildMetrics | None:
    try:
        return BuildMetrics.model_validate(report.metrics)
    except ValidationError:  # of another version
        return None


def _summed_up(
    store: Store, structure: str, builds: list[tuple[Report, BuildMetrics]], *, refittable: bool
) -> EarlierBuild:
    newest = builds[0][0].artifact
    built = [metrics for _, metrics in builds if metrics.way == "built" and metrics.seconds is not None]
    cold = [metrics for metrics in built if metrics.timing_cache is None or not metrics.timing_cache.bytes_before]
    folder = None
    if refittable:
        with suppress(StoreError):
            store.file(newest, CARD)
            folder = store.file(newest, ENGINE).parent
    before = builds[0][1].earlier  # what a refitted engine was held against still says what a build takes
    return EarlierBuild(
        structure=structure,
        artifact=newest.folder,
        folder=folder,
        built_seconds=built[0].seconds if built else before.built_seconds if before else None,
        cold_seconds=cold[0].seconds if cold else before.cold_seconds if before else None,
    )
