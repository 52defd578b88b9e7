"""TF-IDF of words and letters, and logistic regression: what can be had without any backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse

from dept.adapters.head import Head
from dept.baselines.files import read_baseline, write_baseline
from dept.baselines.linear import Option, choose, fit, log_probs
from dept.batches.tokenise import Row
from dept.trial import TFIDF_C, TFIDF_GRAMS
from tasks.cut import Places

OPTIONS = tuple(Option(grams, c) for grams in TFIDF_GRAMS for c in TFIDF_C)
KINDS = {"words": ("word", (1, 2)), "letters": ("char_wb", (2, 5))}  # analyser and lengths of n-grams, as sklearn's
TENSORS = "tfidf.safetensors"


class Tfidf:
    """A trained regression over the n-grams of texts.

    Attributes:
        option: kinds of n-grams, and C.
        parts: the vectorisers by kind. head: over their columns, one behind the other.
        validation: metrics that the option was chosen by.
    """

    def __init__(self, option: Option, parts: Mapping[str, Any], head: Head, validation: dict[str, float]) -> None:
        self.option, self.parts, self.head, self.validation = option, parts, head, validation

    @property
    def trainable(self) -> int:
        """Numbers that were fitted."""
        return self.head.weight.numel() + self.head.bias.numel()

    def score(self, texts: Sequence[str]) -> list[list[float]]:
        """Log-probabilities (nats) over the labels of texts, see `contents`."""
        return log_probs(self.head, _columns(self.parts, texts))

    def save(self, folder: str | Path, **metadata: Any) -> str:
        """Write it durably; returns the sha256 (hex) of its manifest, which holds those of its files and the n-grams.

        Raises:
            InputError: see `dept.baselines.files.write_baseline`.
        """
        told = {"method": "tfidf", "grams": list(self.option.what), "c": self.option.c, "trainable": self.trainable}
        told["vocabulary"] = {kind: part.get_feature_names_out().tolist() for kind, part in self.parts.items()}
        more = {"validation": self.validation, "metadata": metadata}
        tensors = {name: value.contiguous() for name, value in self.head.named().items()}
        tensors |= {f"idf_{kind}": torch.tensor(part.idf_) for kind, part in self.parts.items()}
        return write_baseline(folder, lambda into: save_file(tensors, into / TENSORS), {**told, **more})

    @classmethod
    def load(cls, folder: str | Path) -> Tfidf:
        """Read what `save` wrote.

        Raises:
            InputError: see `dept.baselines.files.read_baseline`.
        """
        told, tensors = read_baseline(folder), load_file(Path(folder) / TENSORS)
        parts = {kind: _vectoriser(kind, terms) for kind, terms in told["vocabulary"].items()}
        for kind, part in parts.items():
            part.idf_ = tensors[f"idf_{kind}"].numpy()
        return cls(Option(tuple(told["grams"]), told["c"]), parts, Head.of(tensors), told["validation"])


def train_tfidf(
    texts: Sequence[str],
    rows: Sequence[Row],
    checks: Sequence[str],
    validation: Sequence[Row],
    option: Option | None = None,
) -> Tfidf:
    """Choose n-grams and C by the loss on the validation rows, and fit on the shots.

    Args:
        texts: of the shots, whole, see `contents`; rows: the shots. checks, validation, option: see
            `dept.baselines.probe.train_probe`.

    Raises:
        InputError: no shots.
    """
    labels = len(rows[0].candidates) if rows else 0

    known: dict[tuple[Any, ...], tuple[Any, dict[str, Any], Any]] = {}

    def make(option: Option, inputs: Any, gold: Sequence[int]) -> Tfidf:
        if known.get(option.what, (None,))[0] is not inputs:  # options that differ in C alone come one after the other
            parts = {kind: part for kind in option.what if (part := _fitted(kind, inputs)) is not None}
            known[option.what] = inputs, parts, _columns(parts, inputs)
        _, parts, columns = known[option.what]
        return Tfidf(option, parts, fit(columns, gold, labels, option.c, standardise=False), {})

    shots, found = np.array(texts, dtype=object), dict[str, float]()
    if option is None:
        given = np.array(checks, dtype=object), validation
        option, found = choose(lambda *said: make(*said).score, OPTIONS, shots, rows, given)
    made = make(option, shots, [row.gold for row in rows])
    made.validation = found
    return made


def contents(texts: Sequence[str], template: str) -> list[str]:
    """What stands in the fields of texts made by a template: its own words are the same in all of them."""
    places = Places(template)
    return [" ".join(text[a:b] for a, b in places.of(text).values()) or text for text in texts]


def _vectoriser(kind: str, terms: Sequence[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    analyser, lengths = KINDS[kind]
    return TfidfVectorizer(analyzer=analyser, ngram_range=lengths, sublinear_tf=True, vocabulary=terms)


def _fitted(kind: str, texts: Any) -> Any:
    """A vectoriser of these texts; None where they hold nothing of its kind."""
    try:
        return _vectoriser(kind).fit(texts)
    except ValueError:  # "empty vocabulary"
        return None


def _columns(parts: Mapping[str, Any], texts: Any) -> Any:
    if not parts:
        return sparse.csr_matrix((len(texts), 0))
    return sparse.hstack([part.transform(texts) for part in parts.values()]).tocsr()
