"""What every step of one run is handed: the store, the workers, and how to become an artifact."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import JsonValue, ValidationError

from tasks.core.changes import explain
from tasks.core.config import InterpreterConfig, PipelineConfig, RuntimeName
from tasks.core.digests import canonical, sha256_text
from tasks.core.elsewhere import made_elsewhere
from tasks.core.environment import cores, versions_of
from tasks.core.errors import ArtifactDamaged, NotMade, StepError
from tasks.core.frozen import Frozen
from tasks.core.locks import HostLock, Mode
from tasks.core.observations import Observer
from tasks.core.report import Artifact, Recipe
from tasks.core.store import NEVER_MADE, Made, Miss, Produced, Store
from tasks.repro import Places, keep_file, keep_request
from tasks.runtimes.interpreters import Interpreter, named, own
from tasks.runtimes.isolate import Home, Workers
from tasks.step import StepOptions

_LARGE_BYTES = 512 << 20
_LOOK_SECONDS = 0.05
M = TypeVar("M", bound=Frozen)
Q = TypeVar("Q", bound=Frozen)
R = TypeVar("R", bound=Frozen)


class Journal(Protocol):
    """Hears what steps do: for progress, the run's record and its log."""

    def computing(self, step: str, subject: str) -> None:
        """The step found no artifact and starts to work."""

    def produced(self, step: str, subject: str, produced: Produced) -> None:
        """The step has its artifact."""


def model_files(store: Store, artifact: Artifact) -> tuple[str, ...]:
    """Names of an artifact's model.onnx and of the files that hold its weights."""
    facts = store.report(artifact).metrics["facts"]
    external = facts["external_files"] if isinstance(facts, dict) else None
    return ("model.onnx", *(map(str, external) if isinstance(external, list) else ()))


@dataclass(frozen=True)
class Files:
    """Files of an artifact that a step reads; without names, its model with the external data."""

    artifact: Artifact
    names: tuple[str, ...] = ()

    def digest(self, store: Store) -> str:
        """Digest over the reported digests of the files; a file that the artifact does without counts as absent."""
        names = self.names or model_files(store, self.artifact)
        digests = {record.name: record.sha256 for record in store.report(self.artifact).files}
        return sha256_text(canonical({name: digests.get(name) for name in names}))


@dataclass(frozen=True)
class Work:
    """How one artifact is to be made; see `Context.produce`.

    `gpu` is how it holds the GPU, if it uses it; `before` is called before host and GPU are waited for.
    """

    recipe: Recipe
    make: Callable[[Path], Made]
    observing: bool = False
    host: Mode = "shared"
    gpu: Mode | None = None
    before: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Context:
    """The surroundings of one run of one pipeline. Steps may run in several threads at once.

    In a `dry` run a step that is not cached raises NotMade; steps named in `again` run although they are cached. With
    `resume`, a step that this host lacks packages for takes what was made where they are.
    """

    pipeline: str
    config: PipelineConfig
    store: Store
    workers: Workers
    journal: Journal
    host: HostLock = field(default_factory=HostLock)
    gpu: HostLock = field(default_factory=lambda: HostLock(device="gpu"))
    dry: bool = False
    again: frozenset[str] = frozenset()
    resume: bool = False
    large: threading.Lock = field(default_factory=threading.Lock)
    interpreters: Mapping[str, InterpreterConfig] = field(default_factory=dict)
    slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(cores()))

    @property
    def project(self) -> Path:
        """Folder of the pipelines.yaml: paths in it are relative to this, and user modules are found here."""
        return self.store.project

    def interpreter(self, runtime: RuntimeName, name: str | None) -> Interpreter:
        """Where a runtime lives: in the interpreter of that name, or with trtflow."""
        return named(runtime, name, self.interpreters[name], self.project) if name else own(runtime)

    def produce(self, work: Work) -> Artifact:
        """Find the artifact or make it: on one of this run's slots, and never beside a CPU benchmark."""
        recipe = work.recipe
        carried = self._carried(work) if self.resume else None
        if carried is not None:
            self.journal.produced(recipe.step, recipe.subject, Produced(carried, cached=True, seconds=0.0))
            return carried
        if self.dry:
            return self._planned(work)

        def make(folder: Path) -> Made:
            work.before()
            with self._turn(work):
                self.journal.computing(recipe.step, recipe.subject)
                return work.make(folder)

        if recipe.step in self.again:
            self._forget(work)
        produced = self.store.produce(recipe, make, observing=work.observing)
        self.journal.produced(recipe.step, recipe.subject, produced)
        return produced.artifact

    def _carried(self, work: Work) -> Artifact | None:
        """What another host made for this step, where this one could not."""
        if isinstance(self.store.find(work.recipe, observing=work.observing), Artifact):
            return None
        steps = self.store.root / work.recipe.pipeline / work.recipe.step
        report = made_elsewhere(steps, work.recipe, Observer(self.project, self.store.sources))
        return report.artifact if report else None

    def _forget(self, work: Work) -> None:
        found = self.store.find(work.recipe, observing=work.observing)
        if isinstance(found, Artifact):
            self.store.forget(found)

    def _planned(self, work: Work) -> Artifact:
        found = self.store.find(work.recipe, observing=work.observing)
        if isinstance(found, Miss):
            steps = self.store.root / work.recipe.pipeline / work.recipe.step
            raise NotMade(explain(steps, work.recipe) if found.reason == NEVER_MADE else found.reason)
        self.journal.produced(work.recipe.step, work.recipe.subject, Produced(found, cached=True, seconds=0.0))
        return found

    def call(self, home: Home, function: Callable[[Q], R], request: Q, folder: Path) -> R:
        """Have a worker do the step's work; the request stays in the artifact as its repro."""
        places = Places(store=self.store.root, project=self.project, out=folder)
        keep_request(folder, home, function, request, places)
        return self.workers.call(home, function, request, scratch=folder / "scratch")

    def warm(self, home: Home) -> None:
        """Have what a later call needs be imported beside this step; no CPU benchmark begins meanwhile."""
        threading.Thread(target=self._import, args=(home,), daemon=True).start()

    def _import(self, home: Home) -> None:
        with contextlib.suppress(StepError), self.host.hold("shared", self.store.stop):  # raises if the run is stopped
            self.workers.warm(home)
            while self.workers.importing(home) and not self.store.stop.wait(_LOOK_SECONDS):
                pass

    def link(self, artifact: Artifact, files: Mapping[str, str], folder: Path) -> None:
        """Give files of an artifact that a step left as they are a second name in its folder: `{new name: name}`."""
        places = Places(store=self.store.root, project=self.project, out=folder)
        for name, source in files.items():
            keep_file(folder, name, self.store.folder(artifact) / source, places)
            self.store.link(artifact, source, folder / name)

    def take(self, source: Path, target: Path) -> None:
        """Copy a file of the user into a step's folder."""
        places = Places(store=self.store.root, project=self.project, out=target.parent)
        keep_file(target.parent, target.name, source, places)
        self.store.take(source, target)

    @contextlib.contextmanager
    def room_for(self, artifact: Artifact) -> Iterator[None]:
        """Work on a large model alone among those of this run that need many times its size in memory."""
        size = sum(record.bytes for record in self.store.report(artifact).files)
        with self.large if size > _LARGE_BYTES else contextlib.nullcontext():
            yield

    def recipe(self, options: StepOptions, subject: str = "", tools: tuple[str, ...] = ()) -> Recipe:
        """Begin the recipe of a step of this pipeline."""
        return Recipe(
            pipeline=self.pipeline,
            step=options.name,
            version=options.version,
            subject=subject,
            tools=versions_of(tools),
        )

    def using(self, recipe: Recipe, **inputs: "Files") -> Recipe:
        """Add files of other artifacts to a recipe: their digests decide, their artifacts are its lineage."""
        digests = {name: files.digest(self.store) for name, files in inputs.items()}
        lineage = tuple(sorted({files.artifact.folder for files in inputs.values()}))
        return recipe.model_copy(update={"inputs": digests, "lineage": lineage})

    def metrics(self, artifact: Artifact, model: type[M]) -> M:
        """The metrics that an artifact's step reported."""
        try:
            return model.model_validate(self.store.report(artifact).metrics)
        except ValidationError as error:
            what = f"{artifact.folder}: its metrics are not those of {artifact.step}"
            raise ArtifactDamaged(what, artifact.folder) from error

    def file(self, artifact: Artifact, name: str) -> Path:
        """Path of a verified file of an artifact."""
        return self.store.file(artifact, name)

    def optional_file(self, artifact: Artifact, name: str) -> Path | None:
        """Path of a verified file of an artifact that may do without it."""
        return self.file(artifact, name) if name in artifact.files else None

    def model_file(self, artifact: Artifact) -> Path:
        """Path of an artifact's model.onnx, after it and its external data were verified."""
        paths = [self.file(artifact, name) for name in model_files(self.store, artifact)]
        return paths[0]

    @contextlib.contextmanager
    def _turn(self, work: Work) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            if work.gpu is not None:  # waited for before a slot is taken: others compute meanwhile
                held.enter_context(self.gpu.hold(work.gpu, self.store.stop))
            held.enter_context(self.slots)
            held.enter_context(self.host.hold(work.host, self.store.stop))
            yield


def params(value: Frozen) -> dict[str, JsonValue]:
    """A config section as it goes into a key."""
    return value.model_dump(mode="json")
