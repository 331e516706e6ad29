"""The sentence encoder of the minilm example, its sentences, and the metric that it is judged by."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import minilm
from models.minilm_sentences import CALIBRATION, PARAPHRASES, RELATED, UNRELATED
from tasks.core.yaml_source import load_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (minilm.PACKAGE, "transformers", "tokenizers")),
    reason=f"the extra minilm is not installed: {minilm.INSTALL}",
)
# In a process of its own: importing transformers warns, and here a warning is an error.
ENCODE = """
import sys
import numpy as np
import torch
from models import minilm

model = minilm.build().eval()
batches = list(minilm.evaluation())
with torch.inference_mode():
    whole = [model(**{n: torch.from_numpy(a) for n, a in feeds.items()}).numpy() for feeds, _ in batches]
    ids = torch.from_numpy(batches[0][0]["input_ids"][:1])
    ids = ids[:, : int(batches[0][0]["attention_mask"][0].sum())]
    alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).numpy()
np.savez(sys.argv[1], embedding=np.concatenate(whole), alone=alone)
"""


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> minilm.Arrays:
    path = tmp_path_factory.mktemp("minilm") / "encoded.npz"
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(path) as arrays:
        return dict(arrays)


def embeddings(similarities: list[float]) -> minilm.Arrays:
    """Rows of which 2i and 2i + 1 have the i-th cosine similarity."""
    angles = np.arccos(similarities)
    partners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows = np.stack([np.tile([1.0, 0.0], (len(partners), 1)), partners], axis=1)
    return {"embedding": rows.reshape(-1, 2).astype(np.float32)}


def test_no_sentence_occurs_twice() -> None:
    paired = [sentence for pair in minilm.pairs() for sentence in pair]
    assert len(CALIBRATION) >= 64
    assert len(minilm.pairs()) >= 64
    assert len({*CALIBRATION, *paired}) == len(CALIBRATION) + len(paired)


def test_each_golden_set_holds_all_three_kinds_of_pairs() -> None:
    first_batches = minilm.pairs()[: minilm.BATCH]  # two batches of so many sentences
    for kind in (PARAPHRASES, RELATED, UNRELATED):
        assert set(kind) & set(first_batches[: minilm.BATCH // 2])
        assert set(kind) & set(first_batches[minilm.BATCH // 2 :])


@installed
def test_batches_are_what_pipelines_yaml_declares() -> None:
    dims = load_config(ROOT / "pipelines.yaml").pipelines["minilm"].dims
    assert dims["sequence"].max == minilm.LONGEST
    batches = [*minilm.calibration(), *(feeds for feeds, _ in minilm.evaluation())]
    for feeds in batches:
        assert {array.dtype for array in feeds.values()} == {np.dtype(np.int64)}
        rows, length = feeds["input_ids"].shape
        assert feeds["attention_mask"].shape == (rows, length)
        assert dims["batch"].min <= rows <= dims["batch"].max
        assert dims["sequence"].min <= length <= dims["sequence"].max
    assert len({feeds["input_ids"].shape[1] for feeds in batches}) > 3


@installed
def test_a_batch_is_padded_to_its_longest_sentence() -> None:
    for feeds, targets in minilm.evaluation():
        mask = feeds["attention_mask"]
        assert mask.sum(axis=1).max() == mask.shape[1]
        assert mask.sum(axis=1).min() < mask.shape[1]
        assert not feeds["input_ids"][mask == 0].any()
        assert targets == {}


@installed
def test_a_sentence_that_is_too_long_is_cut() -> None:
    (row,) = minilm.tokenizer().encode_batch(["word " * 500])
    assert len(row.ids) == minilm.LONGEST


@installed
def test_embeddings_have_length_one(encoded: minilm.Arrays) -> None:
    assert encoded["embedding"].shape == (2 * len(minilm.pairs()), 384)
    assert np.allclose(np.linalg.norm(encoded["embedding"], axis=1), 1, atol=1e-5)


@installed
def test_padding_does_not_change_an_embedding(encoded: minilm.Arrays) -> None:
    assert np.allclose(encoded["alone"][0], encoded["embedding"][0], atol=1e-5)


@installed
def test_every_paraphrase_is_nearer_than_any_other_pair(encoded: minilm.Arrays) -> None:
    # Trained weights, in the right places: seen were 0.59 to 0.94, -0.00 to 0.37 and -0.06 to 0.19.
    paraphrases, related, unrelated = minilm.similarities(encoded["embedding"]).reshape(-1, 3).T
    assert paraphrases.min() > max(related.max(), unrelated.max())
    assert related.mean() > unrelated.mean() + 0.1


@installed
def test_source_agrees_with_itself(encoded: minilm.Arrays) -> None:
    assert minilm.spearman(encoded, {}, encoded) == pytest.approx(1.0)


def test_spearman_is_one_for_the_same_order_and_minus_one_for_the_reverse() -> None:
    reference = embeddings([0.1, 0.3, 0.6, 0.9])
    assert minilm.spearman(embeddings([-0.5, 0.0, 0.1, 0.2]), {}, reference) == pytest.approx(1.0)
    assert minilm.spearman(embeddings([0.9, 0.6, 0.3, 0.1]), {}, reference) == pytest.approx(-1.0)


def test_spearman_with_ties_correlates_mean_ranks() -> None:
    ours, theirs = embeddings([0.1, 0.5, 0.5, 0.8]), embeddings([0.2, 0.4, 0.6, 0.9])
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: about their means 4.5 / sqrt(4.5 * 5).
    assert minilm.spearman(ours, {}, theirs) == pytest.approx(4.5 / 22.5**0.5)


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert minilm.ranks(np.array([0.5, 0.1, 0.5, 0.9])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_an_engine_to_which_all_sentences_are_alike_scores_zero() -> None:
    same: minilm.Arrays = {"embedding": np.ones((8, 384), np.float32)}
    zero: minilm.Arrays = {"embedding": np.zeros((8, 384), np.float32)}
    reference = embeddings([0.1, 0.3, 0.6, 0.9])
    assert minilm.spearman(same, {}, reference) == 0.0
    assert minilm.spearman(zero, {}, reference) == 0.0


def test_similarity_is_of_directions_not_lengths() -> None:
    rows = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [5.0, 5.0]], np.float16)
    assert minilm.similarities(rows) == pytest.approx([0.0, 1.0])


def test_without_the_extra_a_run_says_in_one_paragraph_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == minilm.PACKAGE else found(name, *rest)
    )
    for source in (minilm.build, lambda: next(minilm.calibration()), lambda: next(minilm.evaluation())):
        with pytest.raises(ModuleNotFoundError, match=r"constraints/minilm\.txt") as raised:
            source()
        assert "\n" not in str(raised.value)
