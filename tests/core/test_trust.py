"""What somebody who can write to the store, and holds no key, can do to promotions: nothing that is not found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.digests import sha256_file
from tasks.core.errors import TrustError
from tasks.core.promotions import Choice, Promotion, Promotions
from tasks.core.signing import SigningKey
from tasks.core.trust import Authority, trusted
from tests.signatures import make_pair

# What a field is changed to; of the others, the text is.
CHANGED: dict[str, object] = {"files": {}, "previous": None, "by_hand": False, "kind": "promotion"}


@pytest.fixture
def signer(tmp_path: Path) -> SigningKey:
    return make_pair(tmp_path / "keys")[0]


@pytest.fixture
def promotions(tmp_path: Path, signer: SigningKey) -> Promotions:
    return Promotions(tmp_path / "store", "digits", authority=Authority(signer, (signer.public,)))


def engine(promotions: Promotions, key: str) -> Choice:
    """An engine in the store."""
    folder = promotions.root / "digits" / "build" / key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.engine").write_bytes(f"engine {key}".encode())
    (folder / "card.json").write_text("{}")
    files = {path.name: sha256_file(path) for path in folder.iterdir()}
    return Choice(id=f"onnxruntime/{key}", key=key, artifact=f"digits/build/{key}", reason="best", files=files)


def promoted(promotions: Promotions, *keys: str) -> None:
    for key in keys:
        promotions.promote(engine(promotions, key))


def paths(promotions: Promotions) -> list[Path]:
    return sorted(promotions.folder.glob("*.json"))


def refused(promotions: Promotions, name: str) -> str:
    """Check that nothing can be done with these records, and give what is said of them."""
    said = set()
    for use in (
        promotions.state,
        promotions.records,
        lambda: promotions.promote(engine(promotions, "z"), by_hand=True),
        lambda: promotions.rollback("bad"),
    ):
        with pytest.raises(TrustError, match=name) as caught:
            use()
        said.add(str(caught.value))
    (text,) = said
    return text


def test_what_is_signed_is_in_force(promotions: Promotions) -> None:
    promoted(promotions, "a", "b")
    promotions.rollback("slow")
    promoted(promotions, "c")
    records = promotions.records()
    assert [record.key for record in records] == ["a", "b", "a", "c"]
    assert all(record.signature for record in records)
    assert records[2].files == records[0].files == engine(promotions, "a").files
    trusted(promotions.root, records[-1], promotions.authority)


def test_a_rollback_to_nothing_is_signed_too(promotions: Promotions) -> None:
    promoted(promotions, "a")
    promotions.rollback("bad")
    assert promotions.state().current is None
    assert promotions.records()[-1].signature


def test_every_field_is_signed(promotions: Promotions) -> None:
    promoted(promotions, "a", "b")
    promotions.rollback("bad")
    content = paths(promotions)[-1].read_text()
    for name in json.loads(content):
        if name in {"schema_version", "signature"}:
            continue
        document = json.loads(content)
        document[name] = CHANGED.get(name, f"{document[name]}x")
        paths(promotions)[-1].write_text(json.dumps(document))
        text = refused(promotions, paths(promotions)[-1].name)
        assert "altered" in text, name
    paths(promotions)[-1].write_text(content)
    assert promotions.state().current


def _unsigned(path: Path) -> None:
    document = json.loads(path.read_text())
    document["signature"] = None
    path.write_text(json.dumps(document))


def _another_value(path: Path) -> None:
    document = json.loads(path.read_text())
    document["signature"]["value"] = document["signature"]["value"][::-1]
    path.write_text(json.dumps(document))


def _another_key_id(path: Path) -> None:
    document = json.loads(path.read_text())
    document["signature"]["key_id"] = "0" * 16
    path.write_text(json.dumps(document))


def _twice_the_same_field(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace('"artifact": "digits/build/b"', '"artifact": "digits/build/b", "artifact": "x/y/z"'))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_unsigned, "unsigned"),
        (_another_value, "altered"),
        (_another_key_id, "signed by an unknown key '0000000000000000'"),
        (_twice_the_same_field, "altered"),
    ],
)
@pytest.mark.parametrize("index", [0, 1])
def test_a_record_whose_signature_does_not_hold_is_refused(
    promotions: Promotions, damage: Callable[[Path], None], said: str, index: int
) -> None:
    promoted(promotions, "b", "c") if index == 0 else promoted(promotions, "c", "b")
    path = paths(promotions)[index]
    damage(path)
    assert said in refused(promotions, path.name)


def test_a_record_that_is_dropped_in_is_refused(promotions: Promotions) -> None:
    promoted(promotions, "a")
    Promotions(promotions.root, "digits").promote(engine(promotions, "evil"))
    assert "unsigned" in refused(promotions, paths(promotions)[-1].name)


def test_a_record_of_somebody_elses_key_is_refused(promotions: Promotions, tmp_path: Path) -> None:
    promoted(promotions, "a")
    other, _ = make_pair(tmp_path / "keys", "other")
    Promotions(promotions.root, "digits", authority=Authority(other)).promote(engine(promotions, "evil"))
    assert f"signed by an unknown key '{other.public.id}'" in refused(promotions, paths(promotions)[-1].name)


def test_an_old_record_under_a_new_name_is_refused(promotions: Promotions) -> None:
    promoted(promotions, "a", "b")
    oldest, _ = paths(promotions)
    replayed = oldest.with_name("20990101T000000.000000Z-abcdef.json")
    shutil.copy(oldest, replayed)
    assert f"a copy of {oldest.name} of digits" in refused(promotions, replayed.name)


def test_a_record_of_another_pipeline_is_refused(promotions: Promotions) -> None:
    other = Promotions(promotions.root, "other", authority=promotions.authority)
    promoted(other, "a")
    promotions.folder.mkdir(parents=True)
    shutil.copy(paths(other)[0], promotions.folder)
    assert f"a copy of {paths(other)[0].name} of other" in refused(promotions, paths(other)[0].name)


def test_a_record_of_another_store_is_refused(promotions: Promotions, tmp_path: Path) -> None:
    promoted(promotions, "a")
    other = Promotions(tmp_path / "staging", "digits", authority=promotions.authority)
    promoted(other, "x", "y")
    first, second = paths(other)
    shutil.copy(second, promotions.folder)
    assert f"signed as the one after {first.name}, which is missing" in refused(promotions, second.name)
    (promotions.folder / second.name).unlink()
    shutil.copy(first, promotions.folder)
    assert "signed as the first record, and there are older ones" in refused(promotions, first.name)


def test_a_record_that_is_removed_is_missed_unless_it_is_the_newest(promotions: Promotions) -> None:
    promoted(promotions, "a", "b")
    promotions.rollback("bad")  # who removes this would have b in force again
    promoted(promotions, "c")
    _, _, rollback, newest = paths(promotions)
    rollback.unlink()
    assert f"signed as the one after {rollback.name}, which is missing" in refused(promotions, newest.name)


def test_without_trust_any_record_counts(promotions: Promotions) -> None:
    Promotions(promotions.root, "digits").promote(engine(promotions, "a"))
    signs = Promotions(promotions.root, "digits", authority=Authority(promotions.authority.signer))
    assert signs.state().current is not None
    trusted(promotions.root, signs.records()[0], Authority())


def test_what_was_in_force_unsigned_is_signed_by_the_next_promotion_of_the_same(promotions: Promotions) -> None:
    Promotions(promotions.root, "digits").promote(engine(promotions, "a"))
    signs = Promotions(promotions.root, "digits", authority=Authority(promotions.authority.signer))
    signs.promote(engine(promotions, "a"))
    signs.promote(engine(promotions, "a"))
    assert [bool(record.signature) for record in signs.records()] == [False, True]


def test_records_of_earlier_versions_load_and_are_unsigned(promotions: Promotions) -> None:
    old = {
        "schema_version": 1,
        "kind": "promotion",
        "pipeline": "digits",
        "id": "onnxruntime/a",
        "key": "a",
        "artifact": "digits/build/a",
        "reason": "best",
        "at": "2026-11-20T10:00:00.000+00:00",
        "by_hand": False,
        "barred": None,
    }
    promotions.folder.mkdir(parents=True)
    (promotions.folder / "20261120T100000.000000Z-abcdef.json").write_text(json.dumps(old))
    unsigned = Promotions(promotions.root, "digits")
    assert unsigned.records() == [Promotion.model_validate(old)]
    text = refused(promotions, "20261120T100000")
    assert f"move {promotions.folder} aside" in text
    promotions.folder.rename(promotions.root / "before-trust")
    promoted(promotions, "a")
    assert len(promotions.records()) == 1


def test_a_key_may_follow_another(promotions: Promotions, tmp_path: Path) -> None:
    promoted(promotions, "a")
    new, _ = make_pair(tmp_path / "keys", "new")
    both = Promotions(promotions.root, "digits", authority=Authority(new, (*promotions.authority.trusted, new.public)))
    promoted(both, "b")
    assert len(both.records()) == 2
    only = Promotions(promotions.root, "digits", authority=Authority(new, (new.public,)))
    assert "signed by an unknown key" in refused(only, paths(promotions)[0].name)


@pytest.mark.parametrize("name", ["model.engine", "card.json"])
def test_an_engine_that_was_swapped_is_not_used(promotions: Promotions, name: str) -> None:
    promoted(promotions, "a", "b")
    (promotions.root / "digits/build/a" / name).write_bytes(b"evil")
    current = promotions.state().current
    assert current is not None
    trusted(promotions.root, current, promotions.authority)
    with pytest.raises(TrustError, match=f"{name} was altered"):
        promotions.rollback("bad")
    assert len(promotions.records()) == 2
    (promotions.root / "digits/build/b" / name).unlink()
    with pytest.raises(TrustError, match=f"{name} is missing"):
        trusted(promotions.root, current, promotions.authority)


def test_what_was_built_again_is_signed_by_hand_only(promotions: Promotions) -> None:
    promoted(promotions, "a")
    again = engine(promotions, "a").model_copy(update={"files": {"model.engine": "0" * 64}})
    with pytest.raises(TrustError, match="its files are not those signed") as caught:
        promotions.promote(again)
    assert "trtflow promote digits onnxruntime/a" in caught.value.cure
    assert promotions.promote(again, by_hand=True).files == again.files


@pytest.mark.parametrize("artifact", ["/etc", "../../keys", "digits/../../keys", "a\0b", "digits/circle"])
def test_an_artifact_outside_the_store_is_not_used(promotions: Promotions, artifact: str) -> None:
    choice = engine(promotions, "a").model_copy(update={"artifact": artifact})
    (promotions.root / "digits/circle").symlink_to("circle")
    with pytest.raises(TrustError, match="is not in the store"):
        trusted(promotions.root, promotions.promote(choice), promotions.authority)


@pytest.mark.parametrize("name", ["../b/model.engine", "a\0b", "x" * 5000, "", "."])
def test_a_file_outside_the_engines_folder_is_none_of_it(promotions: Promotions, name: str) -> None:
    choice = engine(promotions, "a").model_copy(update={"files": {name: "0" * 64}})
    promoted(promotions, "b")
    with pytest.raises(TrustError, match="is missing"):
        trusted(promotions.root, promotions.promote(choice), promotions.authority)
