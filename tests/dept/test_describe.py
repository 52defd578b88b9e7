"""What is known of a backbone without loading it is what the loaded one says; its id is that of its files."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_text
from dept.backbones import describe as describing
from dept.backbones import files
from dept.backbones.backbone import Backbone
from dept.backbones.describe import describe
from dept.config import AdapterConfig
from infra.errors import InputError
from tests.dept.test_tokens import PAIR, sentencepiece, wordpiece
from tests.tiny import TEXT


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tiny_folders, tmp_path):
    return shutil.copytree(tiny_folders["llama"], tmp_path / "copy")


def test_it_says_what_the_loaded_backbone_says(tiny):
    info = describe(str(tiny.folder), dtype="float32")
    assert (info.name, info.backbone_id, info.d, info.family) == (tiny.name, tiny.weights_id, tiny.d, tiny.family)
    assert (info.positions, info.vocab, info.dtype) == (tiny.positions, tiny.tokens.vocab, "float32")
    for name in ("end_ids", "pad_id"):
        assert getattr(info.tokens, name) == getattr(tiny.tokens, name)
    texts = [TEXT, "the film</s> was <unk> gréat 日本", " leading", ""]
    assert info.tokens.encode_texts(texts) == tiny.tokens.encode_texts(texts)
    assert info.tokens.encode_words(PAIR) == tiny.tokens.encode_words(PAIR)
    assert info.tokens.encode_answers(["a good film"]) == tiny.tokens.encode_answers(["a good film"])
    refusals = []
    for of in (info, tiny):
        try:
            of.check_room(200, 100)
            refusals.append(None)
        except InputError as error:
            refusals.append(str(error))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize("kind", [wordpiece, sentencepiece])
def test_other_tokenizers_alike(folder, kind):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=kind(), eos_token="</s>", pad_token="[NEW]", unk_token="<unk>")
    made.save_pretrained(folder)
    theirs, ours = AutoTokenizer.from_pretrained(folder), describe(str(folder)).tokens
    assert ours.encode_texts([TEXT]) == [theirs(TEXT)["input_ids"]]
    assert ours.end_ids[0] == theirs.eos_token_id


def test_the_default_backbone(monkeypatch):
    monkeypatch.delenv("DEPT_CACHE")
    try:
        info = describe("smollm2-135m")
    except InputError as error:
        pytest.skip(str(error))
    from dept.backbones.loading import load_tokenizer

    theirs = load_tokenizer(str(info.folder))
    text = "The quick brown fox, 12.5 % of it: naïve — <|im_start|>user\n\n  two  blanks"
    assert info.tokens.encode_texts([text]) == [theirs(text)["input_ids"]]
    assert (info.name, info.family, info.d, info.positions) == ("smollm2-135m", "causal", 576, 8192)
    assert info.tokens.end_ids[0] == theirs.eos_token_id


def test_bad_input_is_told_as_when_loading(tmp_path, folder):
    for name, said in ((str(tmp_path / "nowhere"), "no such folder"), ("no-team/no-model", "cannot be loaded")):
        with pytest.raises(InputError, match=said):
            describe(name)
    with pytest.raises(InputError, match="unknown dtype 'float12'"):
        describe(str(folder), dtype="float12")
    whole = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(whole[:100])
    with pytest.raises(InputError, match="cannot be loaded"):
        _ = describe(str(folder)).tokens
    (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 3}')
    with pytest.raises(InputError, match="names no width"):
        describe(str(folder))


def test_the_id_is_of_what_decides_numbers(folder, tmp_path, monkeypatch):
    first = describe(str(folder)).backbone_id
    assert describe(str(folder), dtype="bfloat16").backbone_id == first
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for path in ("./copy", "copy/", "link", str(shutil.copytree(folder, tmp_path / "other"))):
        assert describe(path).backbone_id == first
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "training_args.bin").write_bytes(b"x")
    (folder / "README.md").write_text("of no concern")
    assert describe(str(folder)).backbone_id == first
    seen = {first}
    changes = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    for name in (*changes, "spiece.model", "merges.txt", "vocab.json", "model.safetensors"):
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes((before or b"{}") + b"\n")
        seen.add(files.weights_id(folder))
        if before is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(before)
    assert len(seen) == 1 + len(changes) + 4
    assert files.weights_id(folder) == first


def test_a_clone_has_the_id_of_what_is_fetched(folder, tmp_path):
    """A clone of a hub repository holds weights in several formats, of which one is fetched by its id, and loaded."""
    first = describe(str(folder)).backbone_id
    for name in ("pytorch_model.bin", "model.gguf"):
        (folder / name).write_bytes(b"the same weights, otherwise")
    assert describe(str(folder)).backbone_id == first
    older = files.older_id(folder)
    assert older != first
    assert older in describe(str(folder)).legacy_ids()  # adapters that name it still fit
    (folder / "source.spm").write_bytes(b"pieces")  # of marian's tokenizer
    assert describe(str(folder)).backbone_id != first
    assert files.older_id(folder) == older


def test_files_are_hashed_once(folder, monkeypatch, tmp_path):
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))
    asked = []
    real = files.embedded.file_sha256
    monkeypatch.setattr(files.embedded, "file_sha256", lambda file: asked.append(file.name) or real(file))
    first = files.weights_id(folder)
    assert "model.safetensors" in asked
    asked.clear()
    assert files.weights_id(folder) == first
    assert asked == []
    for torn in (b"", b'{"about": [', b'{"about": null, "sha256": 3}', b"\xff\xfe"):
        for cached in (tmp_path / "cache" / "hashes").iterdir():
            cached.write_bytes(torn)
        assert files.weights_id(folder) == first
    asked.clear()
    weights = folder / "model.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(body)  # as long as before
    assert files.weights_id(folder) != first
    assert asked == ["model.safetensors"]
    asked.clear()
    files.weights_id(folder)
    assert asked == ["model.safetensors"], "what has only just changed may change again within a tick of the clock"
    monkeypatch.setenv("DEPT_CACHE", "/proc/no-cache")  # nobody can write there
    assert files.weights_id(folder) != first


def test_an_adapter_of_the_first_version_still_fits(folder, tmp_path):
    """Its id held the number type, and fewer files."""
    backbone = Backbone.from_pretrained(str(folder), device="cpu")
    adapter = from_text(backbone, AdapterConfig(m=2, r=2, s=8), "good or bad?", 0)
    for dtype in ("float32", "bfloat16"):
        adapter.save(tmp_path / "old", backbone_id=files.legacy_id(folder, dtype))
        backbone.check_adapter(Adapter.load(tmp_path / "old"))
    adapter.save(tmp_path / "new", backbone_id=backbone.weights_id)
    asked = []
    backbone.legacy_ids = lambda: asked.append(1) or set()
    backbone.check_adapter(Adapter.load(tmp_path / "new"))
    assert asked == []  # computed only where the id is another
    adapter.save(tmp_path / "other", backbone_id="0" * 64)
    with pytest.raises(InputError, match=r"trained on other weights.*Remedy"):
        backbone.check_adapter(Adapter.load(tmp_path / "other"))


def test_ids_of_the_first_version_are_those_it_wrote(folder):
    """sha256 over the type and "name:sha256" of each file, as 0.1.0 had it."""
    import hashlib

    digest = hashlib.sha256(b"torch.float32")
    for pattern in ("config.json", "model.safetensors", "tokenizer.json"):
        digest.update(f"{pattern}:{hashlib.sha256((folder / pattern).read_bytes()).hexdigest()}".encode())
    assert files.legacy_id(folder, "float32") == digest.hexdigest()
    (folder / "origin.json").write_text(json.dumps({"sha256": "ab" * 32}))
    assert files.legacy_id(folder, "bfloat16") == hashlib.sha256(b"torch.bfloat16" + b"ab" * 32).hexdigest()


@pytest.mark.parametrize(("built", "dtype"), [("'12.8'", "bfloat16"), ("None", "float32")])
def test_the_number_type_is_that_of_the_torch_that_will_run(monkeypatch, tmp_path, built, dtype):
    """A CPU build of torch on a machine with a GPU runs on the CPU."""
    (tmp_path / "version.py").write_text(f"debug = False\ncuda: Optional[str] = {built}\nhip: Optional[str] = None\n")
    torch = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(describing, "find_spec", lambda name: torch)
    monkeypatch.setattr(Path, "exists", lambda self: True)  # /dev/nvidia0
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert describing.default_dtype() == dtype
    assert describing.default_dtype("cuda:0") == "bfloat16"
    assert describing.default_dtype("cpu") == "float32"
