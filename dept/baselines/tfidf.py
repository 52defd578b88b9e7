"""TF-IDF of words and letters, and logistic regression: what can be had without any backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from dept.adapters.head import Head
from dept.backbones.backbone import Backbone
from dept.baselines.linear import Chosen, Inputs, Option, Way, choose, fit
from dept.baselines.regression import Regression
from dept.batches.tokenise import Row
from dept.constants import TFIDF_C, TFIDF_GRAMS
from tasks.cut import Places
from tasks.pictures import Picture

KINDS = {"words": ("word", (1, 2)), "letters": ("char_wb", (2, 5))}  # analyser and lengths of n-grams, as sklearn's


class Tfidf(Regression):
    """A trained regression over the n-grams of texts. Its option: kinds of n-grams, and C; its inputs: see `contents`.

    Attributes:
        parts: the vectorisers by kind; the head is over their columns, one behind the other.
    """

    method, file, reads, needs_backbone = "tfidf", "tfidf.safetensors", "grams", False

    def __init__(self, chosen: Chosen, head: Head, parts: Mapping[str, Any]) -> None:
        super().__init__(chosen, head)
        self.parts = parts

    def answers(
        self, texts: Sequence[str], backbone: Backbone | None = None, pictures: Sequence[Picture | None] = ()
    ) -> list[list[float]]:
        """See `Regression`; it reads the texts alone."""
        return self.score(contents(texts, self.metadata["template"]))

    def _columns(self, inputs: Inputs) -> Any:
        return _columns(self.parts, inputs)

    def _more(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        told = {kind: part.get_feature_names_out().tolist() for kind, part in self.parts.items()}
        return {"vocabulary": told}, {f"idf_{kind}": torch.tensor(part.idf_) for kind, part in self.parts.items()}

    @classmethod
    def _made(cls, chosen: Chosen, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        parts = {kind: _vectoriser(kind, terms) for kind, terms in told["vocabulary"].items()}
        for kind, part in parts.items():
            part.idf_ = tensors[f"idf_{kind}"].numpy()
        return cls(chosen, Head.of(dict(tensors)), parts)


def train_tfidf(
    texts: Sequence[str],
    rows: Sequence[Row],
    checks: Sequence[str],
    validation: Sequence[Row],
    chosen: Chosen | None = None,
    tempered: bool = True,
) -> Tfidf:
    """Choose n-grams, C and a temperature by the loss on the validation rows, and fit on the shots.

    Args:
        texts: of the shots, whole, see `contents`; rows: the shots. The others: see `dept.baselines.probe.train_probe`.

    Raises:
        InputError: no shots.
    """
    shots = np.array(texts, dtype=object)
    chosen = chosen or choose(WAY, shots, rows, (np.array(checks, dtype=object), validation), tempered)
    parts = _parts(chosen.option.what, shots)
    gold, labels = [row.gold for row in rows], len(rows[0].candidates)
    return Tfidf(chosen, fit(_columns(parts, shots), gold, labels, chosen.option.c, standardise=False), parts)


def contents(texts: Sequence[str], template: str) -> list[str]:
    """What stands in the fields of texts made by a template: its own words are the same in all of them."""
    places = Places(template)
    return [" ".join(text[a:b] for a, b in places.of(text).values()) or text for text in texts]


def _vectoriser(kind: str, terms: Sequence[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    analyser, lengths = KINDS[kind]
    return TfidfVectorizer(analyzer=analyser, ngram_range=lengths, sublinear_tf=True, vocabulary=terms)


def _parts(kinds: Sequence[str], texts: Any) -> dict[str, Any]:
    return {kind: part for kind in kinds if (part := _fitted(kind, texts)) is not None}


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


def _both(kinds: tuple[Any, ...], known: Inputs, asked: Inputs) -> tuple[Any, Any]:
    parts = _parts(kinds, known)
    return _columns(parts, known), _columns(parts, asked)


WAY = Way(tuple(Option(grams, c) for grams in TFIDF_GRAMS for c in TFIDF_C), _both, standardise=False)
