"""`trtflow show NAME --layers [ID]`: an engine's layers, the ONNX nodes in each, and what each takes."""

from collections.abc import Iterator
from pathlib import Path

from flows.options import Options
from flows.table import aligned
from tasks.core.config_fields import suggest
from tasks.core.errors import ConfigError, TrtflowError
from tasks.core.frozen import Frozen
from tasks.core.outcome import EngineOutcome, RunRecord
from tasks.core.promotions import Promotion
from tasks.core.report import Report
from tasks.core.store import read_report
from tasks.runtimes.engine_layers import Layer, LayersMetrics, LayerTable
from tasks.runtimes.layer_times import LAYERS
from tasks.runtimes.load import LAYERED

_HEAD = ("layer", "kind", "ONNX nodes", "precision", "us", "share")
_WIDE = 60


class Shown(Frozen):
    """What `--json` prints."""

    pipeline: str
    run: str
    id: str
    metrics: LayersMetrics
    table: LayerTable
    artifact: str


def show_layers(record: RunRecord, wanted: str, current: Promotion | None, options: Options, root: Path) -> int:
    """Read what the last run kept of one result; nothing is computed."""
    reports = _reports(record, root)
    engine = _engine(record, wanted, current, reports)
    report = reports.get(engine.id)
    if report is None:
        raise _none(record, engine)
    folder = f"{record.outcome.pipeline}/layers/{report[0]}"
    try:
        table = LayerTable.model_validate_json((root / folder / LAYERS).read_bytes())
    except (OSError, ValueError) as error:
        raise TrtflowError(
            f"{root / folder / LAYERS} is not a table of layers that this version reads", "run again", str(error)
        ) from error
    shown = Shown(
        pipeline=record.outcome.pipeline,
        run=record.outcome.run,
        id=engine.id,
        metrics=LayersMetrics.model_validate(report[1].metrics),
        table=table,
        artifact=folder,
    )
    print(shown.model_dump_json() if options.json else "\n".join(_lines(shown, root)))
    return 0


def _reports(record: RunRecord, root: Path) -> dict[str, tuple[str, Report]]:
    """Folder names and reports of the run's tables, by result."""
    found = {}
    for artifact in record.artifacts:
        _, step, key = artifact.split("/")
        if step == "layers" and (root / artifact / "report.json").is_file():
            report = read_report(root / artifact)
            found[report.subject] = (key, report)
    return found


def _engine(
    record: RunRecord, wanted: str, current: Promotion | None, reports: dict[str, tuple[str, Report]]
) -> EngineOutcome:
    """The result that was asked for: without a name what is promoted, or the first that has a table."""
    engines = record.outcome.engines
    if not wanted:
        ids = [current.id] if current and current.id in reports else list(reports)
        fits = [engine for engine in engines if engine.id in ids] or list(engines)
    else:
        fits = [engine for engine in engines if wanted in (engine.id, engine.precision)]
        fits.sort(key=lambda engine: engine.id not in reports)
    if not fits:
        names = sorted({name for engine in engines for name in (engine.id, engine.precision)})
        raise ConfigError(f"the last run of {record.outcome.pipeline} has no result {wanted!r}", suggest(wanted, names))
    return fits[0]


def _none(record: RunRecord, engine: EngineOutcome) -> TrtflowError:
    name = record.outcome.pipeline
    if engine.runtime not in LAYERED:
        return TrtflowError(
            f"{engine.id} has no table of layers: {engine.runtime} does not time them", f"{', '.join(LAYERED)} do"
        )
    notes = [note for note in record.notes if note.startswith(f"{engine.id}: no table")]
    why = notes[0] if notes else f"{engine.id} has no table of layers in the last run: it is {engine.status}"
    return TrtflowError(why, f"see: trtflow show {name}")


def _lines(shown: Shown, root: Path) -> Iterator[str]:
    found = shown.metrics
    at = ", ".join(f"{name} {size}" for name, size in found.at.items())
    yield f"{shown.pipeline}: run {shown.run}, {shown.id}" + (f", at {at}" if at else "")
    layers = sorted(shown.table.layers, key=lambda layer: -layer.microseconds)
    timed = [layer for layer in layers if layer.microseconds]
    yield from aligned([_HEAD, *map(_cells, timed)])
    yield (
        f"{found.layers} layers, {found.total_microseconds:.1f} us: {found.fused} of several nodes, "
        f"{found.reformats} reformats ({found.reformat_share:.1%} of the time), {found.untimed} without a time"
    )
    if not found.detailed:
        yield "the library told nothing but names: nodes and precisions are incomplete"
    place = root / shown.artifact / LAYERS
    yield f"{found.nodes} ONNX nodes are in layers, {found.nodes_without_layer} in none: {place}"


def _cells(layer: Layer) -> tuple[str, ...]:
    kind = f"{layer.kind} (reformat)" if layer.reformat and layer.kind.lower() != "reformat" else layer.kind
    figures = (f"{layer.microseconds:.1f}", f"{layer.share:.1%}")
    return (_short(layer.name), kind, _short(", ".join(layer.nodes)), layer.precision, *figures)


def _short(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return printable if len(printable) <= _WIDE else f"{printable[: _WIDE - 3]}..."
