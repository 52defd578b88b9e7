"""Whether, and how, a model can be used as a frozen backbone: measured when it is loaded, not believed.

The truth is the model's own forward pass on [P; embeddings], one text at a time. Ways of computing it are tried, the
fastest first, on a small random model of its kind (`sibling`), with windows and positions so short that texts reach
beyond them; what is found is then held against the model itself, by a text of its own token ids.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from dept.backbones import cpu_linear, ways
from dept.backbones.questions import embedded_ids
from dept.backbones.rounding import DRAWS, is_short, near, shaken
from dept.backbones.sibling import sibling
from dept.backbones.ways import Way
from infra.errors import InputError

Make = Callable[[Any, Way], Any]  # a backbone of a model, computed in a way that is taken for right
_threads = threading.RLock()
_SMALL = 1 << 23  # weights of a model, such as every sibling has
_REMEDY = "Remedy: another backbone, such as smollm2-135m or a llama, gpt2 or t5 model"


def check_head(name: str, model: Any) -> None:
    """Refuse a model without a language-modelling head.

    Raises:
        InputError: it has none.
    """
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # how models of transformers say that they have none
        head = None
    if head is None:
        raise InputError(
            f"backbone {name}: a {model.config.model_type} model without a language-modelling head. Remedy: a model "
            "for causal or text-to-text generation"
        )


def check_embeddings(name: str, model: Any) -> None:
    """Refuse a model whose tokens have no table of embeddings.

    Raises:
        InputError: so it is.
    """
    try:
        table = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):  # likewise
        table = None
    if not isinstance(table, Tensor) or (table.ndim != 2 and not hasattr(table, "ds_shape")):
        raise not_usable(name, model, "has no table of token embeddings")


def not_usable(name: str, model: Any, why: str) -> InputError:
    """What is said of a model that cannot be a backbone: one line with the cause."""
    return InputError(f"backbone {name}: a {model.config.model_type} model {why}. {_REMEDY}")


def way_of(test: Test, model: Any, weights_id: str | None, whole: bool) -> Way:
    """How a model is computed: remembered, or measured.

    Args:
        weights_id: of its files; None: there are none, so nothing is remembered.
        whole: all its weights are in this process; else its sibling alone is measured, and that is not remembered.
    """
    bits = getattr(model.config, "quantization_config", "")
    kind = f"{model.get_input_embeddings().weight.dtype} {bits}{test.also}"
    if (found := ways.recall(weights_id, kind) if weights_id else None) is None:
        found = test.measure(model, whole)
        if weights_id and whole and not found.blind.startswith(PASSING):
            ways.remember(weights_id, kind, found)
    # At each load: kernels hang on the device, and on another library's version.
    if whole and bits and not test.passes_gradients(model):
        raise not_usable(test.name, model, "has quantised weights that pass no gradient, so no prompt can learn")
    return found


@contextmanager
def in_one_thread(model: Any) -> Iterator[None]:
    """While this lasts torch runs a small model in one thread: others would cost more than they bring."""
    if sum(weight.numel() for weight in model.parameters()) >= _SMALL:
        yield
        return
    with _threads:  # else the second to come could keep the one thread of the first for good
        many = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            yield
        finally:
            torch.set_num_threads(many)


PASSING = "its own pass cannot be followed"  # a reason that memory, or another version of a library, may take away
_known: dict[str, Way] = {}  # by class and configuration: what siblings have shown in this process


class Test(ABC):
    """What a kind of backbone is measured by.

    Args:
        name: of the backbone, for messages.
        make: a backbone of this kind of a model, computed in a way.

    Attributes:
        also: what is measured beside texts, in a word.
    """

    also: ClassVar[str] = ""

    def __init__(self, name: str, make: Make) -> None:
        self.name, self.make = name, make

    def measure(self, model: Any, whole: bool = True) -> Way:
        """The fastest way that gives the model's own numbers.

        Args:
            whole: all its weights are in this process, so that it can be held against itself.

        Raises:
            InputError: there is none; it says why.
        """
        table = model.get_input_embeddings().weight
        about = (
            type(self).__name__,
            type(model).__name__,
            model.config._attn_implementation,
            model.config.to_json_string(),
            (table.dtype, table.device) if is_short(model) else "",
        )
        key = " ".join(map(str, about))
        if (way := _known.get(key)) is None:
            try:
                small = sibling(model)
                self.own(small)
            except Exception as error:  # no sibling, or one that does not run
                if not whole:
                    raise not_usable(self.name, model, f"cannot be measured in parts ({cause(error)})") from error
                return self._measured(model, model, far=not _has_windows(model.config))
            with in_one_thread(small):
                way = self._measured(small, model, far=True)
                if is_short(model):
                    way = self._in_type(small, model, way)
                way = replace(way, repacks=self._repacks(small), scale=self._scale_of(way.scale, small, model))
            _known[key] = way
        if whole and not self._confirmed(model, way):
            way = self._measured(model, model, far=False)
            if not self._confirmed(model, way):
                raise not_usable(self.name, model, "gives other numbers for token ids than for their embeddings")
        return way

    def _in_type(self, small: Any, model: Any, way: Way) -> Way:
        """The fastest way, this or a slower one, that is right in the model's short type, on its device, as well."""
        table = model.get_input_embeddings().weight
        tried = list(self.ladder(small, way.scale, True))
        try:
            there = copy.deepcopy(small).to(table.device, table.dtype)
            return self._measured(there, model, True, tried[tried.index(way) :])
        except (InputError, RuntimeError):  # it cannot be had in that type: the model itself has the last word
            return way

    def passes_gradients(self, model: Any) -> bool:
        """Whether what stands first learns of the last logits: some kernels have no derivative, and raise no error."""
        first = embedded_ids(model).detach().clone().requires_grad_()
        with torch.no_grad():
            self.of_embeddings(model, first)  # some pack their weights at the first answer, for good
        try:
            with torch.enable_grad():
                last = self.of_embeddings(model, first)[-1].float().norm()
                (found,) = torch.autograd.grad(last, first, allow_unused=True)
        except RuntimeError:
            return False
        return found is not None and bool(found[0, 0].isfinite().all()) and bool(found[0, 0].any())

    def _confirmed(self, model: Any, way: Way) -> bool:
        try:
            with in_one_thread(model):
                return self.confirms(model, way)
        except Exception:  # a way that the whole model's code does not know
            return False

    def _repacks(self, small: Any) -> bool:
        """Whether a sibling gives its own numbers on packed weights as well."""
        before = self.own(small)
        try:
            cpu_linear.pack(small)
            return near(self.own(small), before)
        except Exception:  # code that reads what packed layers have not
            return False

    def _measured(self, model: Any, about: Any, far: bool, tried: Sequence[Way] = ()) -> Way:
        """As `measure`, by this model alone.

        Args:
            far: texts beyond its windows may be tried, so rows may be packed.
            tried: ways to be tried; default all.
        """
        try:
            scale, agrees = 1.0 if tried else self._scale(model, about), self.truth(model, about, far)
        except InputError:
            raise
        except Exception as error:  # whatever its code raises at what it is asked
            raise not_usable(self.name, about, f"cannot be run on input embeddings ({cause(error)})") from error
        why = "nothing"
        for way in tried or self.ladder(model, scale, far):
            try:
                if agrees(self.make(model, way)):
                    return way
                why = "other numbers than its own"
            except Exception as error:  # a way that its code does not know
                why = cause(error)
        raise not_usable(self.name, about, f"gives {why} on [P; text] in every way that is known here")

    def _scale(self, model: Any, about: Any) -> float:
        """What the model multiplies embeddings of ids by where it makes them itself."""
        with torch.no_grad():
            truth, embedded = self.own(model), embedded_ids(model)
            if not near(truth, self.own(model), self.shakes(model, embedded)):
                raise not_usable(self.name, about, "gives other numbers each time it is asked")
            for scale in scales(self.text(model), embedded.shape[-1]):
                given = embedded * scale if scale != 1 else embedded
                if near(self.of_embeddings(model, given), truth, self.shakes(model, given)):
                    return scale
        raise not_usable(
            self.name,
            about,
            "makes more of a token id than an input embedding (per-layer or hashed embeddings), "
            "which a prompt of vectors has not",
        )

    def _scale_of(self, found: float, small: Any, model: Any) -> float:
        """What a sibling has shown of the embeddings' scale, for the model's own width."""
        wide, narrow = (
            int(getattr(table, "ds_shape", table.shape)[1])
            for table in (one.get_input_embeddings().weight for one in (model, small))
        )
        return wide**0.5 if found != 1 and found == narrow**0.5 and found not in _named(self.text(model)) else found

    def shakes(self, model: Any, embeddings: Tensor) -> list[Tensor]:
        """Of a model of a short type by how much `of_embeddings` differs for shaken embeddings; see `rounding`."""
        if not is_short(model):
            return []
        own = self.of_embeddings(model, embeddings)
        return [self.of_embeddings(model, shaken(embeddings, draw)) - own for draw in range(DRAWS)]

    def text(self, model: Any) -> Any:
        """The configuration that speaks of what reads embeddings."""
        return model.config

    @abstractmethod
    def own(self, model: Any) -> Tensor:
        """The model's own logits [n, vocab] of `some_ids`.

        Raises:
            ValueError: they are not finite.
        """

    @abstractmethod
    def of_embeddings(self, model: Any, embeddings: Tensor) -> Tensor:
        """As `own`, of embeddings [1, IDS, d] in place of the ids."""

    @abstractmethod
    def truth(self, model: Any, about: Any, far: bool) -> Callable[[Any], bool]:
        """What the model itself makes of [P; text]: says whether a backbone computes the same. `far`: see `measure`.

        Raises:
            InputError: a model of another kind than this one, such as one whose tokens see what follows them.
        """

    @abstractmethod
    def ladder(self, model: Any, scale: float, far: bool) -> Iterable[Way]:
        """The ways to be tried, the fastest first."""

    @abstractmethod
    def confirms(self, model: Any, way: Way) -> bool:
        """Whether the model's logits for token ids are those that this way gives for their embeddings."""


def scales(config: Any, d: int) -> list[float]:
    """What a model may multiply its embeddings of width d by, the likeliest first."""
    return list(dict.fromkeys([1.0, *_named(config), d**0.5, float(torch.tensor(d**0.5).bfloat16())]))


def _named(config: Any) -> list[float]:
    """Scales that a configuration names."""
    own = (getattr(config, name, None) for name in ("embedding_multiplier", "embed_scale", "scale_emb"))
    return [float(one) for one in own if isinstance(one, (int, float))]


def _has_windows(config: Any) -> bool:
    """Whether any field of a configuration speaks of windows, chunks or types of layers."""
    text = config.get_text_config().to_dict()
    kinds = text.get("layer_types")
    return bool(kinds and set(kinds) != {"full_attention"}) or any(
        value for key, value in text.items() if "window" in key or ("chunk" in key and key != "chunk_size_feed_forward")
    )


def cause(error: Exception) -> str:
    """An error of another library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
