"""Run a new engine at every size at which the source ran, and say in its card which sizes these were (in a worker)."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tasks.core.errors import StepError
from tasks.core.files import link_or_copy
from tasks.core.range_points import RangePoint
from tasks.core.sets import RANGE_OUTPUTS
from tasks.core.tensors import Tensors, load_batches, save_batches
from tasks.runtimes.base import CARD, ENGINE, BuildRequest, EngineRange, OpenOptions, Runtime, Session, read_card
from tasks.runtimes.range_run import Budget, spans

# An engine may be slower than the source, as one without optimised kernels is: it gets more time before it is left out.
_SECONDS = 60.0


def run_range(runtime: Runtime, request: BuildRequest, unchanged: Mapping[str, str]) -> EngineRange:
    """Write the engine's outputs over the range, and complete its card.

    `unchanged` are files of the model that the engine uses as they are, by their names beside the engine.
    """
    golden = load_batches(request.golden)[0]
    card = read_card(request.folder / CARD)
    options = OpenOptions(timed=False, module=request.module)
    folder = _whole(request, unchanged)
    with runtime.open(folder / ENGINE, card, options) as session:
        found, outputs = _run_points(session, golden, request)
    if found.ran:
        save_batches(request.folder / RANGE_OUTPUTS, outputs)
        verified = card.model_copy(update={"verified": spans(found.ran, request.signature)})
        (request.folder / CARD).write_text(verified.model_dump_json(indent=1), encoding="utf-8")
    return found


def _whole(request: BuildRequest, unchanged: Mapping[str, str]) -> Path:
    """A folder that holds all that the engine needs: its own, unless the caller is yet to link files into that."""
    if not unchanged or not request.links:
        return request.folder
    folder = request.folder / "scratch" / "range"
    folder.mkdir(parents=True)
    for made in request.folder.iterdir():
        if made.is_file():
            link_or_copy(made, folder / made.name)
    for name, source in unchanged.items():
        link_or_copy(request.model.with_name(source), folder / name)
    return folder


def _run_points(session: Session, golden: Tensors, request: BuildRequest) -> tuple[EngineRange, list[Tensors]]:
    """Run the points, the smallest first; one that does not run is noted, and the others go on."""
    budget, outputs = Budget(_SECONDS), list[Tensors]()
    ran: list[RangePoint] = []
    failed: list[tuple[RangePoint, str]] = []
    too_large: list[RangePoint] = []
    for point in request.range:
        if not budget.allows(point.volume):
            too_large.append(point)
            continue
        infer = partial(session.infer, point.feeds(golden, request.signature))
        try:
            outputs.append(budget.measured(infer, point.volume))
            ran.append(point)
        except StepError as error:
            failed.append((point, error.message))
    return EngineRange(ran=tuple(ran), failed=tuple(failed), too_large=tuple(too_large)), outputs
