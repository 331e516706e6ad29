"""What was built before is found in the store's reports."""

from pathlib import Path

from tasks.core.report import Artifact, Recipe
from tasks.core.store import Made, Store
from tasks.earlier import earlier_builds, exported_of
from tasks.runtimes.base import CARD, ENGINE, BuildMetrics, EarlierBuild
from tasks.runtimes.timing_cache import TimingCacheUse

RECIPE = Recipe(pipeline="net", step="build", version=1, params={"options": {"refittable": True}})
METRICS = BuildMetrics(
    size_bytes=3, optimization="default", rejected=(), agreement_rel_l2=None, structure="s", seconds=9
)
COLD, WARM = TimingCacheUse(bytes_before=0, bytes_after=5), TimingCacheUse(bytes_before=5, bytes_after=5)


def built(store: Store, typed: str, metrics: BuildMetrics, recipe: Recipe = RECIPE) -> Artifact:
    def make(folder: Path) -> Made:
        (folder / ENGINE).write_bytes(b"abc")
        (folder / CARD).write_text("{}")
        return Made(metrics.model_dump(mode="json"))

    return store.produce(recipe.model_copy(update={"inputs": {"typed": typed}}), make).artifact


def test_the_newest_of_a_structure_is_found_and_the_cold_build_remembered(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path)
    assert earlier_builds(store, RECIPE, refittable=True) == ()
    built(store, "1", METRICS.model_copy(update={"seconds": 40.0, "timing_cache": COLD}))
    newest = built(store, "2", METRICS.model_copy(update={"seconds": 10.0, "timing_cache": WARM}))
    (found,) = earlier_builds(store, RECIPE, refittable=True)
    assert (found.artifact, found.folder) == (newest.folder, store.folder(newest))
    assert (found.built_seconds, found.cold_seconds) == (10.0, 40.0)
    assert earlier_builds(store, RECIPE, refittable=False)[0].folder is None


def test_a_refitted_engine_still_knows_what_a_build_takes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path)
    before = EarlierBuild(structure="s", artifact="a", folder=None, built_seconds=40.0, cold_seconds=50.0)
    built(store, "1", METRICS.model_copy(update={"way": "refitted", "seconds": 1.0, "earlier": before}))
    (found,) = earlier_builds(store, RECIPE, refittable=True)
    assert (found.built_seconds, found.cold_seconds) == (40.0, 50.0)


def test_what_was_built_otherwise_is_not_offered(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path)
    built(store, "1", METRICS, RECIPE.model_copy(update={"params": {"options": {"refittable": False}}}))
    built(store, "1", METRICS, RECIPE.model_copy(update={"host": {"gpu": "another"}}))
    built(store, "1", METRICS, RECIPE.model_copy(update={"tools": {"tensorrt": "10.0"}}))
    assert earlier_builds(store, RECIPE, refittable=True) == ()


def test_a_damaged_engine_is_not_refitted(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path)
    artifact = built(store, "1", METRICS)
    (store.folder(artifact) / ENGINE).write_bytes(b"ab")
    (found,) = earlier_builds(store, RECIPE, refittable=True)
    assert found.folder is None


def test_the_export_is_found_through_what_was_made_from_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path)
    lineage: tuple[str, ...] = ()
    made: list[Artifact] = []
    for step in ("export", "fold", "quantize"):
        recipe = Recipe(pipeline="net", step=step, version=1, lineage=lineage)
        made.append(store.produce(recipe, lambda _: Made({})).artifact)
        lineage = (made[-1].folder,)
    assert exported_of(store, made[-1]) == made[0]
    store.discard(made[0].folder)
    assert exported_of(store, made[-1]) is None
