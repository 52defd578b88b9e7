import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_bytes

from dept.adapters.adapter import MANIFEST, TENSORS, Adapter
from dept.readout import Readout
from infra.errors import InputError

ROOT = Path(__file__).parents[2]
M, S, R, D = 3, 7, 2, 5


def made(seed=0, **changes):
    draw = torch.Generator().manual_seed(seed)
    return Adapter(*(torch.randn(*shape, generator=draw) for shape in ((M, D), (S, R), (R, D))), **changes)


def tensors_of(adapter):
    return {name: value.detach() for name, value in adapter.named_parameters()}


def manifest_of(folder):
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def replace_tensors(folder, payload):
    """Put other bytes in, with the sha256 that goes with them: only what is inside is wrong."""
    (folder / TENSORS).write_bytes(payload)
    digest = hashlib.sha256(payload).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest_of(folder) | {"sha256": digest}))


def nothing_but(parent, *names):
    assert sorted(path.name for path in parent.iterdir()) == sorted(names)


@pytest.fixture
def saved(tmp_path):
    made().save(tmp_path / "adapter", backbone="tiny", backbone_id="b" * 64)
    return tmp_path / "adapter"


def test_comes_back_bit_for_bit(tmp_path):
    adapter = made(alpha=12.5, layout="paper")
    with torch.no_grad():
        adapter.prompt[0, 0], adapter.prompt[0, 1], adapter.a[0, 0] = -0.0, 1e-42, torch.finfo(torch.float32).max
    adapter.metadata = {"kept": "since before"}
    digest = adapter.save(tmp_path / "deep" / "adapter", task="film-überall", words=["gut", "schlecht"])
    back = Adapter.load(tmp_path / "deep" / "adapter")
    for name, value in tensors_of(adapter).items():
        assert getattr(back, name).detach().numpy().tobytes() == value.numpy().tobytes(), name
    assert (back.alpha, back.layout, back.scale) == (12.5, "paper", 12.5 / 2**0.5)
    assert back.config == adapter.config
    assert back.metadata == {"kept": "since before", "task": "film-überall", "words": ["gut", "schlecht"]}
    assert digest == back.sha256 == hashlib.sha256((tmp_path / "deep" / "adapter" / TENSORS).read_bytes()).hexdigest()
    assert all(parameter.requires_grad for parameter in back.parameters())
    found = manifest_of(tmp_path / "deep" / "adapter")
    assert {key: found[key] for key in ("m", "s", "r", "d", "format")} == {"m": M, "s": S, "r": R, "d": D, "format": 1}
    nothing_but(tmp_path / "deep", "adapter")
    nothing_but(tmp_path / "deep" / "adapter", MANIFEST, TENSORS)


def test_the_same_tensors_have_the_same_sha256(tmp_path):
    assert made(1).save(tmp_path / "one") == made(1).save(tmp_path / "two") != made(2).save(tmp_path / "three")


def test_other_number_types_and_views_are_kept_as_float32(tmp_path):
    wide = torch.randn(D, M, dtype=torch.float64).T  # not contiguous
    adapter = Adapter(wide, torch.zeros(S, R).bfloat16(), torch.zeros(R, D))
    adapter.save(tmp_path / "adapter")
    back = Adapter.load(tmp_path / "adapter")
    assert {value.dtype for value in back.parameters()} == {torch.float32}
    assert torch.equal(back.prompt, wide.float())


def test_save_replaces_a_folder_whole(saved):
    (saved / "left-over.txt").write_text("of an earlier version")
    other = made(7)
    other.save(saved, task="other")
    nothing_but(saved, MANIFEST, TENSORS)
    nothing_but(saved.parent, "adapter")
    assert torch.equal(Adapter.load(saved).prompt, other.prompt)
    assert Adapter.load(saved).metadata == {"task": "other"}


@pytest.mark.parametrize("keep", [0, 1, 8, 100, -1])
def test_cut_short(saved, keep):
    payload = (saved / TENSORS).read_bytes()
    (saved / TENSORS).write_bytes(payload[:keep])
    with pytest.raises(InputError, match=r"cut short or altered\. Remedy: restore the file"):
        Adapter.load(saved)


def test_one_bit_altered(saved):
    payload = bytearray((saved / TENSORS).read_bytes())
    payload[-1] ^= 1  # the last number of the last tensor: still a valid file
    (saved / TENSORS).write_bytes(payload)
    with pytest.raises(InputError, match="cut short or altered"):
        Adapter.load(saved)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("kind", ["pickle", "pickle-0", "torch-zip", "torch-legacy"])
def test_a_pickle_is_never_loaded(saved, monkeypatch, kind):
    monkeypatch.chdir(saved.parent)
    if kind.startswith("torch"):
        torch.save({"prompt": Bomb()}, saved / TENSORS, _use_new_zipfile_serialization=kind == "torch-zip")
        payload = (saved / TENSORS).read_bytes()
    else:
        payload = pickle.dumps({"prompt": Bomb()}, protocol=0 if kind == "pickle-0" else None)
    replace_tensors(saved, payload)
    with pytest.raises(InputError, match="cannot be read" if kind == "pickle-0" else "is a pickle.*never loaded"):
        Adapter.load(saved)
    assert not Path("exploded").exists()


def test_a_pickle_is_named_as_such_even_with_the_sha256_of_the_real_file(saved):
    torch.save({}, saved / TENSORS)
    with pytest.raises(InputError, match="is a pickle"):
        Adapter.load(saved)


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path):
    """One length in 32 of a safetensors header has the first byte of a pickle."""
    for labels in range(1, 60):
        adapter = made()
        adapter.readout = Readout(calibration="batch", bias=(0.5,) * labels)
        adapter.save(tmp_path / str(labels))
        if (tmp_path / str(labels) / TENSORS).read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no such length")
    assert Adapter.load(tmp_path / str(labels)).readout == adapter.readout


@pytest.mark.parametrize("gone", [MANIFEST, TENSORS])
def test_a_file_is_missing(saved, gone):
    (saved / gone).unlink()
    with pytest.raises(InputError, match=f"{TENSORS} and {MANIFEST} are expected there. Remedy"):
        Adapter.load(saved)
    with pytest.raises(InputError, match="expected there"):
        Adapter.load(saved.parent / "nowhere")


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe{}", b"{}", b'{"sha256": 1}'],
    ids=["empty", "half", "list", "null", "text", "not-utf8", "no-keys", "some-keys"],
)
def test_a_damaged_manifest(saved, damage):
    (saved / MANIFEST).write_bytes(damage)
    with pytest.raises(InputError, match=f"{MANIFEST} is damaged"):
        Adapter.load(saved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 99}, "format 99 is not 1"),
        ({"format": None}, "format None is not 1"),
        ({"layout": "diagonal"}, "unknown layout 'diagonal'; known: adjacent, paper"),
        ({"layout": ["adjacent"]}, "unknown layout"),
        ({"alpha": "much"}, "alpha"),
        ({"alpha": None}, "alpha"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"sha256": None}, "sha256"),
        ({"metadata": 3}, "adapter.json is damaged"),
        ({"m": M + 1}, "says .'m': 4.* holds .'m': 3"),
    ],
)
def test_a_manifest_with_wrong_values(saved, change, said):
    (saved / MANIFEST).write_text(json.dumps(manifest_of(saved) | change))
    with pytest.raises(InputError, match=said):
        Adapter.load(saved)


@pytest.mark.parametrize("name", ["prompt", "a", "b"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(saved, name, value):
    stored = tensors_of(made())
    stored[name][0, 0] = value
    replace_tensors(saved, save_bytes(stored))
    with pytest.raises(InputError, match=f"{name[0].upper()} holds NaN or infinite"):
        Adapter.load(saved)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("prompt", (M, D + 1)),
        ("prompt", (D,)),
        ("a", (S, R + 1)),
        ("b", (R, D + 1)),
        ("b", (R + 1, D)),
        ("prompt", (0, D)),
        ("a", (0, R)),
    ],
)
def test_shapes_that_do_not_fit(saved, name, shape):
    replace_tensors(saved, save_bytes(tensors_of(made()) | {name: torch.zeros(shape)}))
    with pytest.raises(InputError, match="shapes do not fit"):
        Adapter.load(saved)


def test_files_that_are_no_adapter(saved):
    replace_tensors(saved, save_bytes({"prompt": torch.zeros(M, D)}))
    with pytest.raises(InputError, match="cannot be read"):
        Adapter.load(saved)
    replace_tensors(saved, b"plain text, not tensors at all")
    with pytest.raises(InputError, match="cannot be read"):
        Adapter.load(saved)
    replace_tensors(saved, save_bytes({n: v.long() for n, v in tensors_of(made()).items()}))
    with pytest.raises(InputError, match="must hold floating-point"):
        Adapter.load(saved)


def test_fits_only_the_backbone_it_was_trained_on(saved):
    adapter = Adapter.load(saved)
    adapter.check_fits("tiny", "b" * 64, D)
    with pytest.raises(InputError, match=r"width 5 does not fit backbone big of width 8.*trained on \(tiny\)"):
        adapter.check_fits("big", "b" * 64, D + 3)
    with pytest.raises(InputError, match=r"trained on other weights.*than backbone tiny"):
        adapter.check_fits("tiny", "c" * 64, D)
    made().check_fits("any", "c" * 64, D)  # says of no backbone where it was trained


def test_another_width_or_backbone_in_use(tiny_llama, saved):
    from dept.engine.evaluate import Request, score

    request = [Request("good :", ("good", "bad"), 0)]
    with pytest.raises(InputError, match="width 5 does not fit"):
        score(tiny_llama, [Adapter.load(saved)], request)
    wide = Adapter(torch.zeros(M, 32), torch.zeros(S, R), torch.zeros(R, 32))
    wide.save(saved, backbone="other", backbone_id="c" * 64)
    with pytest.raises(InputError, match="trained on other weights"):
        score(tiny_llama, [Adapter.load(saved)], request)
    with pytest.raises(InputError, match="trained on other weights"):
        tiny_llama(wide, torch.ones(1, 3, dtype=torch.long))


def test_a_full_disk_leaves_the_old_adapter(saved, monkeypatch):
    before = Adapter.load(saved).sha256

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*Remedy: free space"):
        made(9).save(saved)
    with pytest.raises(InputError, match="No space left"):
        made(9).save(saved.parent / "new")
    nothing_but(saved.parent, "adapter")
    assert Adapter.load(saved).sha256 == before


def test_a_limit_of_the_system_leaves_nothing(tmp_path):
    """The kernel itself cuts the file short in the middle of its tensors."""
    code = """
    import resource, signal, sys, torch
    from dept.adapters.adapter import Adapter
    from infra.errors import InputError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    adapter = Adapter(torch.zeros(4, 1024), torch.zeros(8, 2), torch.zeros(2, 1024))
    try:
        adapter.save(sys.argv[1])
    except InputError as error:
        print(error)
        assert adapter.sha256 is None
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "adapters" / "one")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    assert "Remedy" in done.stdout
    nothing_but(tmp_path / "adapters")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        made().save(tmp_path / "file" / "adapter")


@pytest.mark.parametrize("change", [{"layout": "diagonal"}, {"alpha": 0.0}, {"alpha": float("inf")}])
def test_an_adapter_that_makes_no_sense_is_not_made(change):
    with pytest.raises(InputError, match=next(iter(change))):
        made(**change)
