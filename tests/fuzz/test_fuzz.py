"""A few seconds of each target; `make fuzz` gives each ten minutes."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import targets
from tests.fuzz.targets import Target
from tests.fuzz.world import World, make_world
from tests.projects import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, once: Project) -> World:
    return make_world(tmp_path_factory.mktemp("tiny"), "tiny", once.folder)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, torch_once: Project) -> World:
    return make_world(tmp_path_factory.mktemp("net"), "net", torch_once.folder)


def fuzz(target: Target, examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(target.inputs)
    def holds(given: object) -> None:
        target.check(given)

    holds()


def test_pipelines_yaml(tiny: World) -> None:
    fuzz(targets.pipelines_yaml(tiny), 25)


def test_reports(tiny: World) -> None:
    fuzz(targets.reports(tiny), 20)


def test_records(tiny: World) -> None:
    fuzz(targets.records(tiny), 20)


def test_indexes(net: World) -> None:
    fuzz(targets.indexes(net), 12)


def test_workers(tiny: World) -> None:
    fuzz(targets.workers(tiny), 100)
