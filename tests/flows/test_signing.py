"""Signing by the command: keygen, runs and decisions that sign, verify, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from flows.authority import SIGNING_KEY
from tasks.core.digests import sha256_file
from tests.commands import Call, Said
from tests.projects import Project
from tests.signatures import BOTH, make_pair, sign_with


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIGNING_KEY, raising=False)


@pytest.fixture
def signed(done: Project, call: Call) -> Project:
    """What was run once, with a record that is signed, and trust that asks for it."""
    make_pair(done.folder / "keys")
    sign_with(done, **BOTH)
    shutil.rmtree(done.store / "tiny/promotions")
    said = call(done, "promote", "tiny", "onnxruntime/fp32")
    assert said.code == 0, said.err
    return done


def wrong(said: Said) -> str:
    """Give what verify found wrong."""
    assert (said.code, said.err) == (1, "")
    assert "NOT VERIFIED" in said.out
    assert said.out.count("\n") == 1
    return said.out


def record(project: Project) -> Path:
    return max((project.store / "tiny/promotions").glob("*.json"))


def engine(project: Project) -> Path:
    return project.store / str(json.loads(record(project).read_text())["artifact"])


def test_keygen_writes_a_pair_that_works_and_says_what_to_add(done: Project, call: Call) -> None:
    said = call(done, "keygen", "--out", str(done.folder / "new/keys"), "--name", "team")
    assert (said.code, said.err) == (0, "")
    assert (done.folder / "new/keys/team.key").stat().st_mode & 0o777 == 0o600
    added = said.out.partition("pipelines.yaml:\n")[2]
    assert len(added.splitlines()) == 2
    text = (done.folder / "pipelines.yaml").read_text()
    (done.folder / "pipelines.yaml").write_text(text.replace("version: 1\n", f"version: 1\n{added}"))
    assert call(done, "validate").code == 0


def test_keygen_needs_no_yaml_and_tells_as_json(tmp_path: Path, call: Call) -> None:
    told = call(Project(tmp_path), "keygen", "--out", str(tmp_path), "--json").json
    assert set(told) == {"private", "public", "key_id"}
    assert Path(told["private"]).read_bytes().startswith(b"-----BEGIN PRIVATE KEY")
    assert Path(told["public"]).read_bytes().startswith(b"-----BEGIN PUBLIC KEY")


@pytest.mark.parametrize("there", ["team.key", "team.pub"])
def test_keygen_never_replaces_a_key(tmp_path: Path, call: Call, there: str) -> None:
    (tmp_path / there).write_text("mine")
    said = call(Project(tmp_path), "keygen", "--out", str(tmp_path), "--name", "team")
    assert said.code == 2
    assert f"{there} is there already" in said.err
    assert (tmp_path / there).read_text() == "mine"
    assert [path.name for path in tmp_path.glob("team.*")] == [there]


@pytest.mark.parametrize(("name", "code"), [("../team", 2), ("", 2), ("a" * 300, 2)])
def test_keygen_takes_plain_names_only(tmp_path: Path, call: Call, name: str, code: int) -> None:
    assert call(Project(tmp_path), "keygen", "--out", str(tmp_path), "--name", name).code == code


def test_keygen_says_where_it_cannot_write(tmp_path: Path, call: Call) -> None:
    (tmp_path / "file").touch()
    for out in (str(tmp_path / "file"), str(tmp_path / "file/below"), "a\0b"):
        said = call(Project(tmp_path), "keygen", "--out", out)
        assert said.code in (1, 2)
        assert said.err.startswith("trtflow: ")


def test_a_run_signs_what_it_promotes_and_verify_agrees(done: Project, call: Call) -> None:
    make_pair(done.folder / "keys")
    sign_with(done, **BOTH)
    shutil.rmtree(done.store / "tiny/promotions")
    assert call(done, "run", "--json").code == 0
    said = call(done, "verify")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("tiny: verified: onnxruntime/fp32 (")
    assert call(done, "run", "--json").code == 0  # nothing to add
    told = call(done, "verify", "tiny", "--json").json
    assert told["verified"]
    assert [(row["status"], row["records"], row["problems"]) for row in told["pipelines"]] == [("verified", 1, [])]


def test_a_signature_is_asked_for_before_the_work(done: Project, call: Call) -> None:
    make_pair(done.folder / "keys")
    sign_with(done, **BOTH)
    shutil.rmtree(done.store / "tiny/build")
    said = call(done, "run", "--json")
    assert said.code == 1
    assert "cannot be trusted: unsigned" in said.err
    assert not (done.store / "tiny/build").exists()
    for arguments in (("list",), ("show", "tiny"), ("gc",), ("rollback", "tiny")):
        said = call(done, *arguments)
        assert (said.code, said.out) == (1, "")
        assert f"{record(done).name} cannot be trusted: unsigned" in said.err
    shutil.move(done.store / "tiny/promotions", done.folder / "before")  # what the message says to do
    assert call(done, "run", "--json").code == 0
    assert call(done, "verify").code == 0


def test_decisions_by_hand_are_signed(signed: Project, call: Call) -> None:
    assert call(signed, "rollback", "tiny").code == 0
    assert call(signed, "verify").out == "tiny: nothing is in force\n"
    assert call(signed, "promote", "tiny", "onnxruntime/fp32").code == 0
    assert call(signed, "verify").code == 0


def test_without_trust_verify_says_what_it_did_not_check(done: Project, call: Call) -> None:
    assert "unsigned; no key to check signatures with" in wrong(call(done, "verify", "tiny"))
    keys = make_pair(done.folder / "keys")
    assert "unsigned" in wrong(call(done, "verify", "tiny", "--key", str(done.folder / "keys/team.pub")))
    sign_with(done, signing=BOTH["signing"])
    assert call(done, "run", "--json").code == 0  # signs what is in force
    assert "no key to check signatures with" in wrong(call(done, "verify", "tiny"))
    # The record before is of a time without signatures: --key asks for all of them, as `trust` does.
    assert "unsigned" in wrong(call(done, "verify", "tiny", "--key", str(done.folder / "keys/team.pub")))
    min((done.store / "tiny/promotions").glob("*.json")).unlink()
    assert "signed as the one after" in wrong(call(done, "verify", "tiny", "--key", str(done.folder / "keys/team.pub")))
    assert keys[1].id in record(done).read_text()


@pytest.mark.parametrize("name", ["model.engine", "card.json"])
def test_verify_finds_an_engine_that_was_swapped_with_its_report(signed: Project, call: Call, name: str) -> None:
    folder = engine(signed)
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    assert f"{name} was altered" in wrong(call(signed, "verify"))
    (folder / name).unlink()
    assert f"{name} is missing" in wrong(call(signed, "verify"))


def test_verify_finds_what_was_done_to_the_records(signed: Project, call: Call) -> None:
    derived, path = signed.store / "tiny/promoted.json", record(signed)
    before = derived.read_text()
    derived.write_text(before.replace("promoted by hand", "promoted by me"))
    assert "promoted.json was altered" in wrong(call(signed, "verify"))
    derived.write_text("{")
    assert "promoted.json cannot be read" in wrong(call(signed, "verify"))
    derived.unlink()
    assert "promoted.json is missing" in wrong(call(signed, "verify"))
    derived.write_text(before)
    text = path.read_text()
    path.write_text(text.replace("promoted by hand", "promoted by me"))
    assert f"{path.name}: altered" in wrong(call(signed, "verify"))
    path.write_text("{")
    assert f"{path.name} is not a promotion record" in wrong(call(signed, "verify"))


def test_a_copied_engine_is_verified_without_yaml_and_store(signed: Project, call: Call, tmp_path: Path) -> None:
    host = Project(tmp_path / "host")
    shutil.copytree(engine(signed), host.folder / "engine")
    shutil.copy(signed.store / "tiny/promoted.json", host.folder)
    shutil.copy(signed.folder / "keys/team.pub", host.folder)
    names = {"--promotion": "promoted.json", "--engine": "engine", "--key": "team.pub"}
    arguments = [word for option, name in names.items() for word in (option, str(host.folder / name))]
    said = call(host, "verify", *arguments)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("tiny: verified: onnxruntime/fp32")
    with (host.folder / "engine/model.engine").open("ab") as stream:
        stream.write(b"x")
    assert "model.engine was altered" in wrong(call(host, "verify", *arguments))
    for cut in (arguments[:2], arguments[:4], arguments[2:]):
        assert call(host, "verify", *cut).code == 2
    make_pair(host.folder, "other")
    assert "signed by an unknown key" in wrong(call(host, "verify", *arguments[:-1], str(host.folder / "other.pub")))


def test_an_engine_that_was_swapped_with_its_report_is_not_promoted_again_by_a_run(signed: Project, call: Call) -> None:
    document = json.loads(record(signed).read_text())
    assert set(document["files"]) >= {"model.engine", "card.json"}
    report = engine(signed) / "report.json"
    digest = document["files"]["card.json"]
    card = engine(signed) / "card.json"
    card.write_bytes(card.read_bytes() + b"\n")
    (engine(signed) / ".verified").unlink()
    told = json.loads(report.read_text())
    for file in told["files"]:
        if file["sha256"] == digest:
            file.update(sha256=sha256_file(card), bytes=card.stat().st_size)
    report.write_text(json.dumps(told))
    said = call(signed, "run", "--json")
    assert said.code == 1
    assert "is in force, and its files are not those signed" in said.err
    assert call(signed, "verify").code == 1


@pytest.mark.parametrize(
    ("keys", "place", "said"),
    [
        ({"trust": ["keys/none.pub"]}, "trust[0]", "there is no file"),
        ({"trust": ["keys"]}, "trust[0]", "is a folder"),
        ({"trust": ["linear.onnx"]}, "trust[0]", "is no public key in PEM"),
        ({"trust": ["keys/team.pub", "keys/team.key"]}, "trust[1]", "is a private key, expected the public one"),
        ({"trust": ["~nobody-of-that-name/x.pub"]}, "trust[0]", "is no path"),
        ({"trust": []}, "trust", "expected at least one"),
        ({"signing": {"key": "keys/none.key"}}, "signing.key", "there is no file"),
        ({"signing": {"key": "keys/team.pub"}}, "signing.key", "is a public key, expected the private one"),
        ({"signing": {"key": "keys/open.key"}}, "signing.key", "can be read by others"),
        ({"trust": ["keys/team.pub"]}, "trust", "there is no key to sign with"),
        ({"trust": ["keys/team.pub"], "signing": {"key": "keys/other.key"}}, "trust", "promotions would be signed by"),
    ],
)
def test_keys_that_cannot_be_are_refused_with_their_place(
    done: Project, call: Call, keys: dict[str, object], place: str, said: str
) -> None:
    for name in ("team", "other", "open"):
        make_pair(done.folder / "keys", name)
    (done.folder / "keys/open.key").chmod(0o644)
    sign_with(done, **keys)
    for command in (("run", "tiny"), ("validate",), ("promote", "tiny", "onnxruntime/fp32"), ("rollback", "tiny")):
        told = call(done, *command, "--json")
        assert told.code == 2
        error = told.json["error"]
        assert (error["path"], bool(error["cure"])) == (place, True), error
        assert error["line"] > 1
        assert said in error["message"]


def test_the_environment_holds_the_key_where_the_yaml_cannot(
    done: Project, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pair(done.folder / "keys")
    sign_with(done, trust=["keys/team.pub"], signing={"key": "/not/on/this/host"})
    shutil.rmtree(done.store / "tiny/promotions")
    monkeypatch.setenv(SIGNING_KEY, str(done.folder / "keys/team.key"))
    assert call(done, "promote", "tiny", "onnxruntime/fp32").code == 0
    monkeypatch.setenv(SIGNING_KEY, str(done.folder / "keys/none.key"))
    said = call(done, "promote", "tiny", "onnxruntime/fp32")
    assert said.code == 2
    assert f"{SIGNING_KEY}: there is no file" in said.err
    monkeypatch.delenv(SIGNING_KEY)
    assert call(done, "verify").code == 0  # who only checks needs no private key
