"""Constants of methods. They are part of a trial's question: a change of one changes fingerprints."""

from __future__ import annotations

from typing import Any

from dept.config import PROBE_TOKENS

PROBE_LAYERS = ((0.5,), (0.75,), (1.0,), (0.5, 1.0))  # depths that a probe may read; validation rows choose
PROBE_C = (0.01, 0.1, 1.0, 10.0)  # how much rows count against small weights
TFIDF_GRAMS = (("words",), ("letters",), ("words", "letters"))
TFIDF_C = (1.0, 10.0, 100.0)
PULL = 16.0  # of their temperature towards 1, see `dept.engine.readout.temper`
# Of an ensemble's adapters together, beside one of each linear baseline. With 4, probe and TF-IDF beside what auto had
# chosen on 7 draws of 16 shots (movie-polarity, sms-spam, tweet-polarity; 150 rows that no study tests on): mean loss
# 0.202 without them, 0.189 with, and 0.3 points more; the probe alone, with half of the votes: 0.212, 0.6 points less.
VOTES = 4.0
# By method. Rank of LoRA: a number, or as many numbers as DePT trains.
CONSTANTS: dict[str, dict[str, Any]] = {
    "lora": {"layers": "all-linear", "alpha": 32, "rank": "budget"},
    "lora-r8": {"layers": "all-linear", "alpha": 32, "rank": 8},
    "probe": {"layers": PROBE_LAYERS, "c": PROBE_C, "tokens": PROBE_TOKENS, "temperature": PULL},
    "tfidf": {"grams": TFIDF_GRAMS, "c": TFIDF_C, "temperature": PULL},
}
