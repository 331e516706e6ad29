"""The recipe that an artifact's key is made from, and the report that lies beside its files."""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, JsonValue

from tasks.core.digests import canonical, sha256_text
from tasks.core.environment import Environment
from tasks.core.frozen import Frozen

KEY_IN_FOLDER_NAME = 20


def _part(text: str) -> str:
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        raise ValueError(f"{text!r} is no name of a file or folder")
    return text


# One part of a path: a report that was made up must not lead out of the store.
Part: TypeAlias = Annotated[str, AfterValidator(_part)]


class Observation(Frozen):
    """One thing that user code was seen to depend on.

    `digest` is the sha256 of a file's bytes or of a folder's sorted names, the version of a package, and
    empty for a file that was looked for and was not there. Paths in the project's folder are relative to it.
    """

    kind: Literal["file", "listing", "absent", "package"]
    name: str
    digest: str = ""


class Recipe(Frozen):
    """All that decides what a step makes.

    `inputs` are the sha256 of the files of other artifacts that the step reads, `sources` those of the user's
    files. `pipeline`, `subject` and `lineage` (folders of the artifacts read) only tell; they are not in the key.
    """

    pipeline: str
    step: str
    version: int
    subject: str = ""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)
    host: dict[str, str] = Field(default_factory=dict)
    lineage: tuple[str, ...] = ()

    def lookup(self) -> str:
        """sha256 of the declared inputs: the key, unless the step also observes what user code reads."""
        return sha256_text(canonical(self.model_dump(mode="json", exclude={"pipeline", "subject", "lineage"})))

    def key(self, observed: tuple[Observation, ...] | None) -> str:
        """sha256 of the declared and the observed inputs."""
        if observed is None:
            return self.lookup()
        return sha256_text(canonical([self.lookup(), sorted((seen.kind, seen.name, seen.digest) for seen in observed)]))


class FileRecord(Frozen):
    """One file of an artifact."""

    name: Part
    bytes: int
    sha256: str


class Report(Frozen):
    """What one step made, from what, where and how; the same envelope for every step."""

    schema_version: Literal[1] = 1
    pipeline: Part
    step: Part
    subject: str
    key: Part
    recipe: Recipe
    observed: tuple[Observation, ...] | None
    environment: Environment
    started: str
    seconds: float
    files: tuple[FileRecord, ...]
    status: Literal["done"] = "done"
    metrics: dict[str, JsonValue]

    @property
    def artifact(self) -> "Artifact":
        """The value that stands for what is reported."""
        names = tuple(record.name for record in self.files)
        return Artifact(pipeline=self.pipeline, step=self.step, key=self.key, files=names)


class Artifact(Frozen):
    """What a step hands to the next one: where its files are, never what is in them."""

    pipeline: str
    step: str
    key: str
    files: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Folder in the store, relative to its root."""
        return f"{self.pipeline}/{self.step}/{self.key[:KEY_IN_FOLDER_NAME]}"
