"""How a model's numbers are computed: measured (`self_test`), remembered by weights and versions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

from infra.files import write_text
from infra.settings import settings

Rows = Literal["packed", "equal", "single"]
Masks = Literal["one", "window", "types"]
Pictures = Literal["none", "packed", "rows", "model"]
Sees = Literal["back", "block", "within", "prefix"]
_TEST = 5  # raise when the self-test looks at more, so that what older ones found is measured again


@dataclass(frozen=True)
class Way:
    """The fastest way of computing a model that gives its own numbers.

    Attributes:
        rows: `packed`: causal models run their prompts once, several texts share a row behind them; encoder-decoders
            take texts of several lengths, padded. `equal`: each text stands behind its prompt in a row of its own, and
            rows of one length share a batch. `single`: so, one row at a time.
        masks: of `packed` rows of causal models: `one` for all layers, all of them with a `window`, or one for each of
            the `types` of layers.
        scale: what the model multiplies the embeddings of token ids by before its first layer.
        whole: its logits are no plain map of its last hidden states, so it computes them itself.
        repacks: its linear layers may run on weights in another order (`cpu_linear`).
        pictures: texts with a picture: `packed`: as other texts; `rows`: each in a row of its own, through the text
            decoder; `model`: so, by the model's own pass over token ids and pixels. `none`: it sees none.
        sees: who sees whom around a picture, see `vision.Scene`.
        blind: why it sees no pictures, in words.
    """

    rows: Rows = "packed"
    masks: Masks = "one"
    scale: float = 1.0
    whole: bool = False
    repacks: bool = False
    pictures: Pictures = "none"
    sees: Sees = "back"
    blind: str = ""

    @property
    def fast(self) -> bool:
        """Whether rows are packed."""
        return self.rows == "packed" and self.pictures in ("none", "packed")

    @property
    def told(self) -> str:
        """In words, for people and tables."""
        return "fast" if self.fast else "slow"


def recall(weights_id: str, dtype: str) -> Way | None:
    """What was measured for these weights with this version of transformers; None where nothing was."""
    try:
        body = json.loads(_place(weights_id, dtype).read_text(encoding="utf-8"))
        found = Way(**body["way"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = found.rows in get_args(Rows) and found.masks in get_args(Masks) and found.pictures in get_args(Pictures)
    known = known and found.sees in get_args(Sees)
    return (
        found
        if known and isinstance(found.scale, float) and {type(found.whole), type(found.repacks)} == {bool}
        else None
    )


def remember(weights_id: str, dtype: str, way: Way) -> None:
    """Keep what was measured; where it cannot be written it will be measured again."""
    about = {"weights_id": weights_id, "dtype": dtype, "transformers": version("transformers")}
    try:
        write_text(_place(weights_id, dtype), json.dumps({**about, "way": asdict(way)}))
    except OSError:
        return


def _place(weights_id: str, dtype: str) -> Path:
    about = [_TEST, weights_id, dtype, version("transformers"), version("torch")]
    return settings().cache / "ways" / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]}.json"
