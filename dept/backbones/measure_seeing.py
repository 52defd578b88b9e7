"""How a model that reads pictures is measured: see `self_test`. The truth is its own pass over token ids and pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dept.backbones.masks import behind_prompt, see_prompt
from dept.backbones.measure_causal import CausalTest
from dept.backbones.questions import of_some_ids, random_vectors, some_ids, with_gradients
from dept.backbones.rounding import DRAWS, alike, all_near, is_short, near, shaken
from dept.backbones.seeing_sibling import seeing_sibling
from dept.backbones.self_test import PASSING, cause, in_one_thread, not_usable
from dept.backbones.shown import SIZES, Prepared, Tower, picture
from dept.backbones.vision import Given, Look, NoEmbeddingsError, Scene, Vision, embedding, on, row_of, text_alone
from dept.backbones.ways import Pictures, Sees, Way

_M = 5
_known: dict[str, Way] = {}  # what siblings have shown in this process


class SeeingTest(CausalTest):
    """Of models that continue a text and read pictures.

    Args:
        processor: of the model.
    """

    also = " pictures"

    def __init__(self, name: str, make: Callable[[Any, Way, Any], Any], processor: Any) -> None:
        super().__init__(name, lambda model, way: make(model, way, processor))
        self.processor, self.make_seeing = Prepared(processor), make
        self.sees: Sees = "back"
        self.tower = Tower()

    def measure(self, model: Any, whole: bool = True) -> Way:
        """See `Test`; where pictures cannot be seen rightly, texts alone still are, and `Way.blind` says why."""
        try:
            small, processor = seeing_sibling(model, self.processor)
            with in_one_thread(small):
                self.sees = _sees(small, processor, self.tower)
        except Exception:  # none can be made, or it does not run: the model itself has the last word
            small, processor = model, self.processor
            with suppress(Exception):
                self.sees = _sees(model, self.processor, self.tower)
        way = super().measure(model, whole)
        try:
            found = self._with_pictures(model, small, processor, way)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever its code, or its processor, raises at a picture
            found = replace(way, blind=f"{PASSING} ({cause(error)})")
        if self.sees == "prefix" and found.blind:
            raise not_usable(self.name, model, f"lets tokens see what follows them, and {found.blind}")
        return found

    def truth(self, model: Any, about: Any, far: bool) -> Callable[[Any], bool]:
        """See `Test`; where all up to the answer sees each other, texts are held against the model with pictures."""
        if self.sees == "prefix":
            return lambda made: not made.way.fast
        return super().truth(model, about, far)

    def confirms(self, model: Any, way: Way) -> bool:
        """See `Test`."""
        return self.sees == "prefix" or super().confirms(model, way)

    def _with_pictures(self, model: Any, small: Any, processor: Any, way: Way) -> Way:
        key = f"{type(model).__name__} {model.config.to_json_string()} {way} {self.processor.block_ids(SIZES[0])}"
        if (found := _known.get(key)) is None:
            with in_one_thread(small):
                found = self._found(small, processor, _Case(small, processor, self.tower), way)
            if found is None:
                return replace(way, blind="it gives other numbers than its own in every way that is known here")
            _known[key] = found
        with in_one_thread(model):
            own = _Case(model, self.processor, self.tower, ids=True)
            confirmed = own.confirmed(self.make_seeing(model, found, self.processor))
        if not confirmed:
            return replace(way, blind="the model itself gives other numbers than a small one of its kind")
        return found

    def _found(self, model: Any, processor: Any, case: _Case, way: Way) -> Way | None:
        """The fastest way that gives the model's own numbers for texts with pictures."""
        for pictures, sees in _ladder(way, self.sees):
            try:
                tried = replace(way, pictures=pictures, sees=sees)
                if case.agrees(self.make_seeing(model, tried, processor)):
                    return tried
            except Exception:  # a way that its code does not know
                continue
        return None


def _ladder(way: Way, sees: Sees) -> Iterator[tuple[Pictures, Sees]]:
    kinds: tuple[Sees, ...] = ("block", "within") if sees == "block" else (sees,)
    if way.fast and sees != "prefix":
        yield from (("packed", kind) for kind in kinds)
    if not way.whole:
        yield from (("rows", kind) for kind in kinds)
    yield "model", sees


def _sees(model: Any, processor: Any, tower: Tower) -> Sees:
    """Who sees whom around a picture, by the mask that the text decoder is given."""
    given, block, vectors = _shown(processor, 0)
    row = row_of(block, given, [_filler(model)] * 2, [_filler(model)] * 4, answer=2)
    try:
        with tower.once(model):
            device = model.get_input_embeddings().weight.device
            masks = Given.by(model, on(row, device) | {"use_cache": False}).masks
    except NoEmbeddingsError:  # pictures stand beside the text
        return "back"
    ahead = [mask.triu(1) for mask in masks]
    if not any(bool(one.any()) for one in ahead):
        return "back"
    first = 2 + vectors[0]
    return "prefix" if any(bool(one[0, first]) for one in ahead) else "block"


def _filler(model: Any) -> int:
    return int(some_ids(model, 2)[1])


def _shown(processor: Any, which: int) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    vision = Vision(None, processor)
    return (processor.inputs(picture(which)), *vision.block(picture(which).size))


class _Case:
    """Texts behind a prompt: two answers behind one picture and text, another picture, and a text without one.

    Args:
        tower: what it has made of pictures for its own passes. How backbones see them is asked of the model apart.
        ids: the vectors are those of token ids, as a model knows them; else random ones.
    """

    def __init__(self, model: Any, processor: Any, tower: Tower, ids: bool = False) -> None:
        self.model, self.vision = model, Vision(model, processor)
        self.device = model.get_input_embeddings().weight.device
        self.shown = [_shown(processor, which) for which in range(len(SIZES))]
        self.tower, self._looks = tower, dict[int, Look]()
        self.filler = _filler(model)
        self.alone = text_alone(self.shown[0][0])
        vectors = of_some_ids(model) if ids else random_vectors(model)

        self.prompt = vectors(_M)
        # (picture, tokens before it, text, answers), of which a text's answers follow each other in one row
        self.texts: list[tuple[int | None, Tensor, Tensor, list[Tensor]]] = [
            (0, vectors(2), vectors(5), [vectors(2), vectors(3)]),
            (1, vectors(1), vectors(4), [vectors(3)]),
            (None, vectors(1), vectors(7), [vectors(2)]),
        ]
        if ids:  # a whole model, whose logits alone are asked for
            with torch.no_grad():
                self.wanted, self.gradients = self._own(self.prompt, self.texts), list[Tensor]()
        else:
            self.wanted, self.gradients = self._of(self._own, self._parts())

    def _parts(self) -> list[Tensor]:
        found = [self.prompt]
        for _, before, text, answers in self.texts:
            found += [before, text, *answers]
        return found

    def _row(self, number: int, answer: int, parts: Any) -> tuple[dict[str, Any], Tensor, Tensor]:
        """What the model is called with for a text and one of its answers; vectors for its ids; which ids stay."""
        prompt, texts = parts or (self.prompt, self.texts)
        which, before, text, answers = texts[number]
        given, block, _ = self.shown[which] if which is not None else (self.alone, (), ())
        behind = torch.cat([text, answers[answer]])
        front = torch.cat([prompt, before])
        row = row_of(block, given, [self.filler] * len(front), [self.filler] * len(behind), len(answers[answer]))
        blank = prompt.new_zeros(len(block), prompt.shape[1])
        kept = torch.zeros(row["input_ids"].shape, dtype=torch.bool, device=self.device)
        kept[:, len(front) : len(front) + len(block)] = True
        return row, torch.cat([front, blank, behind])[None], kept

    def _own(self, prompt: Tensor, texts: Any) -> list[Tensor]:
        """Logits of each text with each of its answers, behind the prompt."""
        found = []
        for number, (_, _, _, answers) in enumerate(texts):
            for answer in range(len(answers)):
                row, vectors, kept = self._row(number, answer, (prompt, texts))
                with embedding(self.model, vectors, kept), self.tower.once(self.model):
                    logits = self.model(**on(row, self.device), use_cache=False).logits
                found.append(logits[0, _M:])
        return found

    def _of(self, run: Callable[[Tensor, Any], list[Tensor]], parts: Sequence[Tensor]) -> Any:
        leaves = [part.detach().requires_grad_() for part in parts]
        rest = iter(leaves[1:])
        texts = [(w, next(rest), next(rest), [next(rest) for _ in a]) for w, _, _, a in self.texts]
        with torch.enable_grad():
            return with_gradients(run(leaves[0], texts), leaves)

    def agrees(self, made: Any) -> bool:
        """Whether logits, gradients and the next tokens of a backbone are the model's own."""
        found, gradients = self._of(lambda prompt, texts: self._run(made, prompt, texts), self._parts())
        if not all_near(found, self.wanted, []) or not all_near(gradients, self.gradients, []):
            return False
        return not made.way.fast or self._continues(made)

    @torch.no_grad()
    def confirmed(self, made: Any) -> bool:
        """Whether logits are the model's own, to rounding."""
        found = self._run(made, self.prompt, self.texts)
        shakes = []
        for draw in range(DRAWS) if is_short(self.model) else ():
            parts = iter([shaken(part, 100 * draw + i) for i, part in enumerate(self._parts())])
            prompt = next(parts)
            texts = [(w, next(parts), next(parts), [next(parts) for _ in a]) for w, _, _, a in self.texts]
            shakes.append([a - b for a, b in zip(self._own(prompt, texts), self.wanted, strict=True)])
        each = zip(*shakes, strict=True) if shakes else [()] * len(found)
        return all(alike(ours, own, more) for ours, own, more in zip(found, self.wanted, each, strict=True))

    def _run(self, made: Any, prompt: Tensor, texts: Any) -> list[Tensor]:
        """As `_own`, by a backbone, as batches are: a text's answers behind it, texts in one row or in rows each."""
        rows = [texts] if made.way.fast else [[text] for text in texts]
        return [logits for row in rows for logits in self._run_row(made, prompt, row)]

    def _laid_out(self, made: Any, prompt: Tensor, texts: Any) -> tuple[Tensor, Tensor, Tensor, Scene, list[Tensor]]:
        """Embeddings [1, T, d], positions [1, T], allowed [1, T, T], scene, and each sequence's columns."""
        parts, positions, ids, answer_of, blocks, chains, looks, vectors = [], [], [], [], [], [], {}, []
        spans: list[tuple[int, int, int]] = []  # first column, end of the text, end of its answers
        told: list[tuple[int, int]] = []  # columns of each answer
        column = 0
        for which, before, text, answers in texts:
            _, block, at = self.shown[which] if which is not None else ({}, (), ())
            start, end = column, column + len(before) + len(block) + len(text)
            inside = made.embed(torch.tensor([block], dtype=torch.long, device=self.device))[0].to(prompt.dtype)
            if which is not None:
                blocks.append((0, start + len(before), len(block), end + sum(map(len, answers)), which))
                vectors.append(at)
            if which is not None and made.way.pictures != "model":  # that one makes them itself
                looks[which] = look = self._look(which)
                inside = inside.index_copy(0, torch.tensor(at, device=self.device), look.vectors.to(prompt.dtype))
            parts += [before, inside, text, *answers]
            ids += [*[self.filler] * len(before), *block, *[self.filler] * (len(text) + sum(map(len, answers)))]
            positions += list(range(end - start))
            answer_of += [-1] * (end - start)
            column = end
            for answer in answers:
                chains.append(torch.tensor([*range(start, end), *range(column, column + len(answer))]))
                positions += [end - start + i for i in range(len(answer))]
                answer_of += [len(chains)] * len(answer)
                told.append((column, column + len(answer)))
                column += len(answer)
            spans.append((start, end, column))
        allowed = torch.zeros(column, column, dtype=torch.bool)
        for start, end, stop in spans:
            allowed[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
            allowed[end:stop, start:end] = True
        for start, stop in told:
            allowed[start:stop, start:stop] = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
        scene = Scene(
            torch.tensor([ids], device=self.device),
            torch.tensor([answer_of], device=self.device) >= 0,
            blocks,
            looks,
            vectors,
            lambda number: self.shown[number][0],
            made.way.sees,
        )
        whole = torch.cat(parts)[None]
        return whole, torch.tensor([positions], device=self.device), allowed[None].to(self.device), scene, chains

    def _look(self, which: int) -> Look:
        """What the backbones that are measured know of a picture: each asks this of the same model."""
        if which not in self._looks:
            self._looks[which] = self.vision.look(picture(which))
        return self._looks[which]

    def _run_row(self, made: Any, prompt: Tensor, texts: Any) -> list[Tensor]:
        whole, positions, allowed, scene, chains = self._laid_out(made, prompt, texts)
        here: Scene | None = scene if scene.blocks or scene.sees == "prefix" else None
        if (ran := made.run_prefix(prompt[None])) is None:
            real = torch.ones_like(positions, dtype=torch.bool)
            last, _ = made.run_alone(whole, real, allowed, prompt[None], scene=here)
        else:
            at = _M + positions
            last, _ = made.run_layers(
                *(whole, at, see_prompt(allowed, _M), made.cache_of(*ran[:2]), behind_prompt(at, _M)),
                (),
                *(here.around(at) if here else ()),
            )
        logits = made.head(last)[0]
        return [logits[chain.to(logits.device)] for chain in chains]

    @torch.no_grad()
    def _continues(self, made: Any) -> bool:
        """Whether three tokens more behind a picture, one by one behind a cache, see what the whole row would."""
        which, before, text, (answer,) = self.texts[1]
        whole, positions, allowed, scene, _ = self._laid_out(made, self.prompt, [(which, before, text, [answer[:0]])])
        keys, values, _ = made.run_prefix(self.prompt[None])
        cache, at = made.cache_of(keys, values), _M + positions
        around = scene.around(at)
        turns = around[0]
        places = behind_prompt(at, _M)
        made.run_layers(whole, at, see_prompt(allowed, _M), cache, places, (), *around)
        wanted = self.wanted[2][-len(answer) :]
        for step in range(len(answer)):
            new = at[:, -1:] + 1 + step
            places = torch.cat([places, new], dim=1)
            turn = None if turns is None else turns[..., -1:] + 1 + step
            seen = torch.ones_like(places, dtype=torch.bool)[:, None, None]
            hidden, _ = made.run_layers(answer[None, step : step + 1], new, seen, cache, places, turns=turn)
            if not near(made.head(hidden)[0, 0], wanted[step], []):
                return False
        return True
