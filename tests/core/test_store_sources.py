"""What a step reads beside artifacts: sources that change, and what user code was seen to depend on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.digests import sha256_file
from tasks.core.errors import StepError
from tasks.core.report import Artifact, Observation, Recipe
from tasks.core.store import Made, Miss, Produced, Store
from tests.makers import RECIPE, Maker, hidden, truncate


def source(store: Store, content: str) -> Recipe:
    (store.project / "model.pt").write_text(content)
    return RECIPE.model_copy(update={"sources": {"model.pt": store.sources.sha256(store.project / "model.pt")}})


@pytest.mark.parametrize("change", [lambda path: path.write_text("two"), Path.unlink])
def test_source_that_changes_while_it_is_read_is_a_clear_error(store: Store, change: Callable[[Path], object]) -> None:
    def make(folder: Path) -> Made:
        change(store.project / "model.pt")
        return Maker()(folder)

    with pytest.raises(StepError, match=r"model.pt changed while fold read it"):
        store.produce(source(store, "one"), make)
    assert hidden(store) == []
    assert not store.produce(source(store, "one"), Maker()).cached


class Project:
    """A step that observes what it reads: helper.py, and data.npy if that is there."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.recipe = RECIPE.model_copy(update={"step": "export"})
        self.write("one")

    def write(self, text: str) -> None:
        (self.store.project / "helper.py").write_text(text)

    def observe(self) -> tuple[Observation, ...]:
        helper = Observation(kind="file", name="helper.py", digest=sha256_file(self.store.project / "helper.py"))
        return helper, Observation(kind="absent", name="data.npy")

    def produce(self) -> Produced:
        return self.store.produce(self.recipe, Maker(observe=self.observe), observing=True)

    @property
    def index(self) -> Path:
        (path,) = (self.store.root / "digits/export/index").iterdir()
        return path


def reason_of(found: Artifact | Miss) -> str:
    assert isinstance(found, Miss)
    return found.reason


def test_observed_step_hits_while_what_it_read_is_the_same(store: Store) -> None:
    project = Project(store)
    assert reason_of(store.find(project.recipe, observing=True)) == "never made from these inputs"
    first = project.produce()
    assert not first.cached
    assert project.produce().cached
    assert first.artifact.key != project.recipe.lookup()
    assert store.report(first.artifact).observed == project.observe()


def test_changed_observation_is_named_and_changed_back_hits_the_first_key(store: Store) -> None:
    project = Project(store)
    first = project.produce()
    project.write("two")
    assert reason_of(store.find(project.recipe, observing=True)) == "helper.py changed"
    second = project.produce()
    assert not second.cached
    assert second.artifact.key != first.artifact.key
    project.write("one")
    back = project.produce()
    assert (back.cached, back.artifact) == (True, first.artifact)


def test_file_that_appears_is_named(store: Store) -> None:
    project = Project(store)
    project.produce()
    (store.project / "data.npy").touch()
    assert reason_of(store.find(project.recipe, observing=True)) == "data.npy is there now"


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00 garbage \xc3\n", b'{"key": "to', b"[]\n5\n"])
def test_index_that_was_damaged_costs_one_rebuild(store: Store, damage: bytes) -> None:
    project = Project(store)
    first = project.produce()
    project.index.write_bytes(damage)
    again = project.produce()
    assert (again.cached, again.artifact) == (False, first.artifact)
    assert project.produce().cached
    assert hidden(store) == []


def test_torn_end_of_an_index_costs_nothing(store: Store) -> None:
    project = Project(store)
    project.produce()
    with project.index.open("ab") as stream:
        stream.write(b'{"key": "torn by a kill", "obs')
    assert project.produce().cached


def test_damaged_artifact_of_an_observed_step_is_made_again(store: Store) -> None:
    project = Project(store)
    first = project.produce()
    truncate(store.folder(first.artifact) / "weights")
    again = project.produce()
    assert again.rebuilt == "weights has 100 of 1000 bytes"
    assert again.artifact == first.artifact
    assert project.produce().cached


def test_discarded_artifact_of_an_observed_step_is_made_again(store: Store) -> None:
    project = Project(store)
    first = project.produce()
    store.discard(first.artifact.folder)
    assert not project.produce().cached
    assert project.produce().cached
