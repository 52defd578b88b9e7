"""Every causal, encoder-decoder and masked model type of transformers, tiny and random: right, or refused.

`python -m tests.families` tries all and writes the table of dept/backbones/README.md; `--masked` tries the encoders and
writes their lines, `--pictures` the types that read pictures; with names it tries these, and writes their lines where
`--write` stands among them. Each type runs in a process of its own, through the public API, against the model's own
forward pass over [P; embeddings]. Behind a name `+` asks for a model that is made apart from the self-test's siblings
(`tests.twisted`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from dept.backbones.sizes import answer_room_of, hidden_of, text_of, width_of
from infra.errors import InputError
from tests import picture_families, twisted
from tests.stand_in_timm import stand_in_timm

SECONDS = 600
TABLE = Path(__file__).parents[1] / "dept" / "backbones" / "README.md"
BEGIN, END = "<!-- made by `make families` -->", "<!-- end -->"
TEXTS = (
    "the film was good and the plot was great " * 3,
    "bad acting",
    "it is not happy food to the price of slow blue",
)
ANSWERS = ("good", "very good", "bad plot")
SIZES = {"m": 5, "s": 44, "r": 2}


@dataclass(frozen=True)
class Found:
    """kind: fast, slow, refused, wrong, traceback, none (no tiny model can be made). why: in words."""

    family: str
    kind: str
    why: str = ""


def names() -> list[str]:
    """All types: causal by name, encoder-decoders with `:s` behind it, encoders `:m`, those that read pictures `:v`."""
    from transformers.models.auto import modeling_auto as auto

    causal, both = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    apart = (f"{name}+" for name in sorted(twisted.CHANGES))
    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    encoders = (f"{name}:m" for name, kind in sorted(masked.items()) if "ConditionalGeneration" not in kind)
    whole = [*sorted(causal), *(f"{name}:s" for name in sorted(both)), *encoders]
    return [*whole, *picture_families.names(), *apart]


def tokenizer(**more):
    """Whole words, few enough for the smallest table."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tests.tiny import WORDS

    words = ["<pad>", "</s>", "<unk>", "<mask>", *dict.fromkeys(WORDS)]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", **more)


def model_of(name: str):
    """A tiny random model of a type."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto as auto

    from dept.backbones.sibling import random_model, small
    from tests.family_sizes import DOUBLE, TINY, config_of

    if name.endswith("+"):
        return twisted.model_of(name[:-1])
    kind, _, part = name.partition(":")
    tiny, of = TINY.get(kind), CONFIG_MAPPING[kind]
    config = of(**tiny) if tiny and not part else small(config_of(of, kind, bool(part)))
    config.eos_token_id, config.pad_token_id = 1, 0
    if part == "s" and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 1
    both, masked = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, auto.MODEL_FOR_MASKED_LM_MAPPING
    found = {"": auto.MODEL_FOR_CAUSAL_LM_MAPPING, "s": both, "m": masked}[part][type(config)]
    found = found[0] if isinstance(found, (tuple, list)) else found
    if found.config_class is not type(config):  # a text model of a configuration of several parts
        config = config.get_text_config()
    made = random_model(found, config)
    made = made.double() if name in DOUBLE else made
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        made(input_ids=ids, **({"decoder_input_ids": ids[:, :3]} if made.config.is_encoder_decoder else {}))
    return made


def tried(name: str) -> Found:
    """What becomes of a type."""
    with stand_in_timm():
        return _refused_in_one_line(name) if name.endswith(":v") else _tried_on_texts(name)


def _tried_on_texts(name: str) -> Found:
    from dept.backbones.backbone import Backbone

    try:
        model = model_of(name)
    except Exception as error:
        return Found(name, "none", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
    try:
        backbone = Backbone.of(model, tokenizer(mask_token="<mask>"), name)
    except InputError as error:
        words = re.sub(r"^backbone \S+: an? \S+ model |\. Remedy:.*", "", str(error))
        return Found(name, "refused" if "\n" not in str(error) else "traceback", words[:160])
    off = compared(backbone) or positions_of(backbone)
    told = f"{backbone.way.rows}, masks {backbone.way.masks}, embeddings x {backbone.way.scale:g}"
    return Found(name, "wrong", off) if off else Found(name, backbone.way.told, told)


def _refused_in_one_line(name: str) -> Found:
    """What becomes of a type that reads pictures."""
    try:
        return Found(name, *picture_families.tried(name[:-2]))
    except InputError as error:
        words = re.sub(r"^backbone \S+: an? \S+ model |\. Remedy:.*", "", str(error))
        return Found(name, "refused" if "\n" not in str(error) else "traceback", words[:160])


def compared(backbone) -> str:
    """What of scores, gradients and new tokens is not the model's own; "" where all is."""
    from dept.adapters.adapter import Adapter
    from dept.adapters.stack import Tensors
    from dept.batches.tokenise import encode
    from dept.engine.evaluate import Request, score
    from dept.engine.generate import Prompted, generate
    from dept.engine.gradients import accumulate

    draw = torch.Generator().manual_seed(0)
    size = 0.5 * float(backbone.model.get_input_embeddings().weight.std()) * backbone.way.scale
    m, s, r = SIZES.values()
    shapes = (m, backbone.d), (s, r), (r, backbone.d)
    adapter = Adapter(*(torch.randn(*shape, generator=draw) * size**0.5 for shape in shapes), alpha=1.0)
    truth = Truth(backbone, adapter)
    if off := truth.of_ids():
        return off
    wanted = [[truth.log_probability(ids, word) for word in truth.words] for ids in truth.ids]
    scores = score(backbone, [adapter], [Request(text, ANSWERS, 0) for text in TEXTS])
    off = float((torch.tensor(scores) - torch.tensor(wanted)).abs().max())
    if not off <= 1e-4 * max(1.0, float(torch.tensor(wanted).abs().max()) / 5):
        return f"scores differ by {off:.2g} nats"
    rows = [row.only_gold() for row in encode(backbone.tokens, TEXTS, ANSWERS, [0, 1, 2], adapter.config)]
    tensors = Tensors.of([adapter], backbone.device)
    for part in (names := ("prompt", "a", "b")):
        setattr(tensors, part, getattr(tensors, part).detach().requires_grad_())
    accumulate(backbone, tensors, [(0, row) for row in rows], [1.0] * 3, 200)
    for part, theirs in zip(names, truth.gradients(), strict=True):
        off = float((getattr(tensors, part).grad[0] - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3))
        if not off <= 1e-3:
            return f"gradient of {part} differs by {off:.2g} of it"
    if backbone.family == "encoder":
        return ""
    written = generate(backbone, [adapter], [Prompted(text, 0) for text in TEXTS], 3)
    if written != (theirs := [backbone.tokenizer.decode(truth.written(ids)) for ids in truth.ids]):
        return f"new tokens {written} are not {theirs}"
    return ""


@torch.no_grad()
def positions_of(backbone) -> str:
    """What is wrong with the sizes and positions that its configuration is taken to tell; "" where nothing is."""
    text, more = text_of(backbone.config.to_dict()), {}
    if (width_of(text), text.get("vocab_size")) != (backbone.d, backbone.tokens.vocab):
        return f"its configuration is taken to tell width {width_of(text)} and {text.get('vocab_size')} tokens"
    room, d = min(backbone.positions or 64, 200), backbone.d
    if backbone.family == "seq2seq":
        more = {"decoder_input_ids": torch.full((1, min(answer_room_of(backbone.config.to_dict()) or 64, 200)), 5)}
    if backbone.family == "encoder":
        more = {"output_hidden_states": True}
    try:
        made = backbone.model(inputs_embeds=torch.zeros(1, room, d, dtype=backbone.dtype), **more)
        if backbone.family == "encoder" and made.hidden_states[-1].shape[-1] != hidden_of(text):
            return f"its configuration is taken to tell states of width {hidden_of(text)}"
    except (IndexError, RuntimeError, ValueError) as error:
        return f"{room} positions cannot be used: {error}"
    return ""


class Truth:
    """transformers' own numbers, one text at a time."""

    def __init__(self, backbone, adapter) -> None:
        self.backbone, self.adapter, self.model = backbone, adapter, backbone.model
        self.seq = backbone.family == "seq2seq"
        self.ids = backbone.encode_texts([text.strip() for text in TEXTS])
        self.words = backbone.tokens.encode_words(ANSWERS)

    def of_ids(self) -> str:
        """Whether the embeddings that are shifted are those that the model makes of ids."""
        ids = torch.tensor(self.ids[:1])
        more = {"decoder_input_ids": ids[:, :3], "use_cache": False} if self.seq else {}
        with torch.no_grad():
            off = self.model(input_ids=ids, **more).logits - self._own(self.backbone.embed(ids), **more)
        return (
            "" if float(off.abs().max()) <= 1e-4 * max(1.0, float(off.std())) else "embeddings are not the model's own"
        )

    def _own(self, embedded: Tensor, **more) -> Tensor:
        import inspect

        known = inspect.signature(self.model.forward).parameters
        mask = {"attention_mask": torch.ones(embedded.shape[:2], dtype=torch.long)} if "attention_mask" in known else {}
        more |= {"use_cache": False} if "use_cache" in known else {}  # a state may be written over
        return self.model(inputs_embeds=embedded, **mask, **more).logits

    def _rows(self, ids) -> Tensor:
        """[P; shifted embeddings], one row."""
        a = self.adapter
        embedded = self.backbone.embed(torch.tensor(list(ids))) + a.scale * (a.a @ a.b)[: len(ids)]
        return torch.cat([a.prompt, embedded])[None]

    def log_probability(self, ids, answer) -> float:
        """Of an answer behind a text, nats."""
        return float(self._of(ids, answer).detach())

    def _of(self, ids, answer) -> Tensor:
        if self.seq:
            logits = self._own(self._rows(ids), labels=torch.tensor([list(answer)]))[0]
        elif self.backbone.family == "encoder":
            masks = [self.backbone.tokenizer.mask_token_id] * max(map(len, self.words))
            logits = self._own(self._rows([*ids, *masks]))[0, SIZES["m"] + len(ids) :]
        else:
            logits = self._own(self._rows([*ids, *answer]))[0, SIZES["m"] + len(ids) - 1 :]
        return logits[: len(answer)].log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)].sum()

    def gradients(self) -> list[Tensor]:
        """Of minus the sum of the texts' own answers, with respect to P, A and B."""
        parts = [self.adapter.prompt, self.adapter.a, self.adapter.b]
        total = sum(self._of(ids, word) for ids, word in zip(self.ids, self.words, strict=True))
        return list(torch.autograd.grad(-total, parts))

    @torch.no_grad()
    def written(self, ids) -> list[int]:
        """Three tokens, greedily."""
        found: list[int] = []
        start = self.backbone.decoder_inputs(torch.tensor([[1]]))[0].tolist() if self.seq else []
        ends = self.backbone.tokens.end_ids
        while len(found) < 3:
            if self.seq:
                logits = self._own(self._rows(ids), decoder_input_ids=torch.tensor([[*start, *found]]))
            else:
                logits = self._own(self._rows([*ids, *found]))
            token = int(logits[0, -1].argmax())
            if token in ends:
                break
            found.append(token)
        return [one for one in found if one not in self.backbone.tokenizer.all_special_ids]


def apart(name: str) -> Found:
    """`tried` in a child process, with a time limit."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(SECONDS)
        try:
            found = tried(name)
        except BaseException as error:
            found = Found(name, "traceback", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        os.write(write, json.dumps(asdict(found)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        body = stream.read()
    os.waitpid(child, 0)
    return Found(**json.loads(body)) if body else Found(name, "traceback", f"died, or took more than {SECONDS} s")


def main() -> int:
    """Try types; all of them where none is named, or those of one kind, and write the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from transformers.utils import logging

    logging.set_verbosity_error()
    asked = [name for name in sys.argv[1:] if name != "--write"]
    if end := {"--masked": ":m", "--pictures": ":v"}.get(" ".join(asked), ""):
        asked = []
    wanted = asked or [name for name in names() if name.endswith(end)]
    found = []
    tried("llama")  # what every child needs is imported once
    tried("t5:s")
    kept = Path(os.environ.get("FAMILIES", "families.jsonl"))  # a second call goes on where the first was stopped
    known = (
        {one["family"]: Found(**one) for one in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    )
    for name in wanted:
        found.append(known.get(name) or apart(name))
        if name not in known:
            with kept.open("a") as stream:
                stream.write(json.dumps(asdict(found[-1])) + "\n")
        print(f"{found[-1].family:28} {found[-1].kind:10} {found[-1].why}", flush=True)
    print(dict(Counter(one.kind for one in found)))
    if not asked or "--write" in sys.argv:
        write_table(found)
        kept.unlink(missing_ok=True)
    return int(any(one.kind in ("wrong", "traceback") for one in found))


def write_table(found: list[Found]) -> None:
    """Put the table between its marks, and how many end how; lines of types that were not tried stay."""
    shown = {"fast": "exact, fast", "slow": "exact, slow", "none": "no tiny model"}
    text = TABLE.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    kept = {line.split(" | ")[0][2:]: line for line in text.split(BEGIN)[1].split(END)[0].splitlines() if line}
    kept |= {
        one.family: f"| {one.family} | {shown.get(one.kind, one.kind)} | {one.why.replace('|', '/')} |" for one in found
    }
    rows = [kept[name] for name in names() if name in kept]
    lines = [
        f"transformers {version('transformers')}; `+`: of other sizes, weights and options than siblings have.",
        "",
        *counted(rows),
        "",
        "| type | ends | how, or why |",
        "| --- | --- | --- |",
        *rows,
    ]
    TABLE.write_text(f"{head}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{tail}", encoding="utf-8")


def counted(rows: list[str]) -> list[str]:
    """How many types of each kind end how, by the lines of the table: lines of a list."""
    told = {"": "causal models", ":s": "encoder-decoders", ":m": "encoders", ":v": "those that read pictures"}
    ends: dict[str, Counter[str]] = {kind: Counter() for kind in told}
    for name, end, *_ in (row.removeprefix("| ").split(" | ") for row in rows):
        if not name.endswith("+"):
            ends[name[name.find(":") :] if ":" in name else ""][end.replace(",", "")] += 1
    return [
        f"- {told[kind]}{kind and f' (`{kind}`)'}: {', '.join(f'{count} {end}' for end, count in found.most_common())}"
        for kind, found in ends.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
