"""Maps of a frozen picture encoder's states: whose they are, where they stand, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers as t
from PIL import Image

from dept.adapters.adapter import Adapter
from dept.adapters.initialise import from_source, from_text
from dept.adapters.picture_map import SeenBy
from dept.adapters.stack import Tensors
from dept.backbones import picture_encoder
from dept.backbones.describe import describe
from dept.backbones.encoder_files import looked_up
from dept.backbones.picture_encoder import PictureEncoder, encoded
from dept.config import AdapterConfig, PictureMap, TrainConfig
from dept.engine.evaluate import score_rows
from dept.engine.train import Trial, train
from dept.trial import TrialSpec
from infra.errors import InputError
from tests.dept.test_seen import by_hand, rows_of
from tests.tasks.picture_cases import saved_at

CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
TEXT = {**SMALL, "vocab_size": 99, "num_hidden_layers": 1, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
KINDS = {
    "clip": t.CLIPConfig(vision_config=SMALL, text_config=TEXT),
    "clip_vision": t.CLIPVisionConfig(**SMALL),
    "blip": t.BlipConfig(vision_config=SMALL, text_config=TEXT),
    "siglip": t.SiglipConfig(vision_config=SMALL, text_config=TEXT),
    "vit": t.ViTConfig(**SMALL),
    "dinov2_with_registers": t.Dinov2WithRegistersConfig(**SMALL),
    "deit": t.DeiTConfig(**SMALL),
    "swin": t.SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[2, 2], image_size=32, patch_size=4, window_size=4),
    "resnet": t.ResNetConfig(**STAGES, embedding_size=8),
}


def encoder_at(folder, kind="clip", config=None, side=32):
    """A tiny random encoder with what prepares pictures for it."""
    torch.manual_seed(3)
    t.AutoModel.from_config(config or KINDS[kind]).eval().save_pretrained(folder)
    size = {"height": side, "width": side}
    prepares = {"image_processor_type": "ViTImageProcessor", "size": size, "do_resize": True, "do_normalize": True}
    prepares |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(prepares))
    return str(folder)


@pytest.fixture
def clip(tmp_path):
    return looked_up(PictureMap(grid=2, rank=3, encoder=encoder_at(tmp_path / "clip")))


@pytest.fixture
def pictures(tmp_path):
    return saved_at(tmp_path, 3, 40)


def adapter_of(backbone, seed, sight):
    torch.manual_seed(seed)
    sizes = [(sight.features, sight.rank), (sight.rank, backbone.d), (sight.positions, backbone.d)]
    sees = SeenBy(sight, *(torch.randn(*size) / 4 for size in sizes))
    return Adapter(torch.randn(4, backbone.d), torch.randn(24, 2), torch.randn(2, backbone.d), 8.0, pictures=sees)


# --- states


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_the_models_own_forward(tmp_path, pictures, kind):
    name = encoder_at(tmp_path / kind, kind)
    sight = looked_up(PictureMap(grid=1 if kind == "resnet" else 2, encoder=name))
    found = encoded(pictures[:1], sight, CPU)[0]
    model = t.AutoModel.from_pretrained(name).eval()
    model = getattr(model, "vision_model", model)
    image = Image.open(pictures[0].path).convert("RGB")
    pixels = t.AutoImageProcessor.from_pretrained(name, backend="pil")(images=image, return_tensors="pt").pixel_values
    with torch.no_grad():
        states = model(pixel_values=pixels).last_hidden_state[0]
    if states.ndim == 2:
        states = states[-16:].view(4, 4, -1).permute(2, 0, 1)  # what leads (class, registers) stands in front
        states = states.unflatten(1, (2, 2)).unflatten(3, (2, 2)).mean((2, 4))
    states = states.flatten(1).T
    wanted = (states - states.mean(1, keepdim=True)) / (states.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    assert found.shape == (sight.positions, sight.width)
    torch.testing.assert_close(found, wanted / sight.width**0.5, atol=1e-5, rtol=0)


def test_places_lie_row_by_row_from_the_upper_left(tmp_path):
    """Without layers a state hangs on its own patch alone."""
    config = t.ViTConfig(**{**SMALL, "num_hidden_layers": 0})
    encoder = PictureEncoder.from_pretrained(
        encoder_at(tmp_path / "flat", config=config),
        looked_up(PictureMap(grid=4, encoder=str(tmp_path / "flat"))).encoder_id,
        CPU,
    )
    grey, spotted = Image.new("RGB", (32, 32), "grey"), Image.new("RGB", (32, 32), "grey")
    spotted.paste((255, 0, 0), (16, 8, 24, 16))
    changed = (encoder.states(grey) != encoder.states(spotted)).any(-1)
    assert changed.nonzero().tolist() == [[1, 2]]


def test_each_picture_is_read_once_and_alone(clip, pictures, monkeypatch):
    read = []
    own = PictureEncoder.states
    monkeypatch.setattr(PictureEncoder, "states", lambda self, image: read.append(1) or own(self, image))
    picture_encoder._kept.cache_clear()
    together = encoded([*pictures, pictures[0]], clip, CPU)
    assert len(read) == 3
    assert torch.equal(together[0], together[3])
    assert torch.equal(encoded(pictures[1:2], clip, CPU)[0], together[1])
    assert len(read) == 3
    picture_encoder._kept.cache_clear()
    assert torch.equal(encoded(pictures[1:2], clip, CPU)[0], together[1]), "whatever else was asked for"


# --- adapters


def test_scores_are_those_of_the_models_own_forward(tiny, clip, pictures):
    config = AdapterConfig(m=4, r=2, s=24, pictures=clip)
    adapters = [adapter_of(tiny, seed, clip) for seed in range(2)]
    rows = rows_of(tiny, config, pictures)
    tensors = Tensors.of(adapters, tiny.device)
    items = [(owner, row) for owner in range(2) for row in rows]
    for (owner, row), found in zip(items, score_rows(tiny, tensors, items), strict=True):
        mine = adapters[owner]
        states = dict(zip([one.sha256 for one in pictures], encoded(pictures, clip, CPU), strict=True))
        given = {sha: x @ mine.picture_in @ mine.picture_out + mine.picture_place for sha, x in states.items()}
        assert found == pytest.approx(by_hand(tiny, mine, row, given), abs=1e-4)


def test_a_map_of_an_encoder_is_part_of_file_budget_and_start(tiny_llama, clip, pictures, tmp_path):
    config = AdapterConfig(m=4, r=2, s=24, pictures=clip)
    start = from_text(tiny_llama, config, "what is it?", 0)
    assert sum(part.numel() for part in start.parts.values()) == config.trainable(32)
    assert config.trainable(32) - config.blind.trainable(32) == 3 * (32 + 32) + 4 * 32
    start.save(tmp_path / "mine")
    back = Adapter.load(tmp_path / "mine")
    assert back.sees == clip
    moved = clip.model_copy(update={"encoder": "elsewhere/clip"})
    again = from_source(back, config.model_copy(update={"pictures": moved}))
    assert torch.equal(again.picture_in, start.picture_in)
    assert config.starts_from(config.model_copy(update={"pictures": moved}))
    with pytest.raises(InputError, match=r"Remedy: the same adapter\.pictures"):
        from_source(back, config.model_copy(update={"pictures": PictureMap(grid=2, rank=3)}))
    rows = rows_of(tiny_llama, config, pictures)
    recipe = TrainConfig(steps=4, batch_size=3, lr_prompt=0.05, lr_pictures=0.02)
    result = train([Trial("t", start, recipe, rows, rows[:2], seed=0)], tiny_llama)["t"]
    assert all(not torch.equal(part, start.parts[name]) for name, part in result.adapter.parts.items())


def test_an_encoder_that_has_moved_is_found_where_it_was_looked_up(tiny_llama, clip, pictures, tmp_path):
    config = AdapterConfig(m=4, r=2, s=24, pictures=clip)
    start = from_text(tiny_llama, config, "what is it?", 0)
    before = encoded(pictures, clip, CPU)
    shutil.move(clip.encoder, tmp_path / "moved")
    picture_encoder._kept.cache_clear()
    picture_encoder._loaded.cache_clear()
    moved = looked_up(PictureMap(grid=2, rank=3, encoder=str(tmp_path / "moved")))
    assert torch.equal(encoded(pictures, clip, CPU), before)
    again = from_source(start, config.model_copy(update={"pictures": moved}))
    assert again.sees == moved
    assert Tensors.of([start, again], tiny_llama.device).picture_in.shape[0] == 2


def test_a_trial_knows_the_encoder_by_its_files(tmp_path, clip):
    common = {"backbone": "b", "backbone_id": "i", "task": "t", "task_version": 1, "data_hash": "h", "role": "target"}
    common |= {"init": "scratch", "prompt_text": "p", "test_rows": 5, "training": TrainConfig()}

    def fingerprint(sight):
        return TrialSpec(adapter=AdapterConfig(pictures=sight), **common).fingerprint

    shutil.copytree(clip.encoder, tmp_path / "copy")
    copy = looked_up(PictureMap(grid=2, rank=3, encoder=str(tmp_path / "copy")))
    assert fingerprint(copy) == fingerprint(clip)
    with pytest.raises(InputError, match="its files are not those of encoder_id"):
        looked_up(clip.model_copy(update={"encoder_id": "0" * 64}))
    other = looked_up(PictureMap(grid=2, rank=3, encoder=encoder_at(tmp_path / "vit", "vit")))
    away = PictureMap(grid=2, rank=3, encoder="not/here")
    assert len({fingerprint(one) for one in (clip, other, away, PictureMap(grid=2, rank=3))}) == 4
    as_before_encoders = "fb43903d115ee386ec114fd68a92deb9120754a74c3757ab4201de89afb72251"
    assert fingerprint(PictureMap(grid=2, pixels=4, rank=3)) == as_before_encoders


# --- what is refused


def broken(folder, change):
    match change:
        case "no folder":
            return "./nowhere"
        case "no preprocessor":
            (folder / "preprocessor_config.json").unlink()
        case "a text model":
            t.BertConfig(**{**SMALL, "vocab_size": 99}).save_pretrained(folder)
        case "a model of one place":
            encoder_at(folder, config=t.ViTConfig(**{**SMALL, "patch_size": 32}))
        case "damaged":
            (folder / "config.json").write_text("{")
    return str(folder)


@pytest.mark.parametrize(
    ("change", "grid", "said"),
    [
        ("no folder", 2, r"^adapter\.pictures: encoder \./nowhere: no such folder"),
        ("no preprocessor", 2, r"no preprocessor_config\.json beside it"),
        ("a text model", 2, "no model that turns pictures into hidden states. Remedy: a CLIP"),
        ("a model of one place", 2, r"it has 1 x 1 places, and grid asks for 2 x 2\. Remedy: grid: 1 or less"),
        ("damaged", 2, r"^adapter\.pictures: encoder '.*' cannot be loaded"),
        ("", 5, r"it has 4 x 4 places, and grid asks for 5 x 5\. Remedy: grid: 4 or less"),
    ],
)
def test_what_is_no_encoder_is_refused_before_any_work(tmp_path, change, grid, said):
    encoder_at(tmp_path / "clip")
    with pytest.raises(InputError, match=said) as found:
        looked_up(PictureMap(grid=grid, encoder=broken(tmp_path / "clip", change)))
    assert "\n" not in str(found.value)


BACKWARD = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 37, "num_hidden_layers": 2}
NO_PLACES = {
    "its states are others each time": t.ViTMAEConfig(**SMALL, decoder_num_hidden_layers=1, decoder_hidden_size=32),
    "do not stand where its pixels are": t.YolosConfig(**{**SMALL, "image_size": [32, 32]}, num_detection_tokens=6),
    "hidden states are no square of places": t.YolosConfig(
        **{**SMALL, "image_size": [32, 32]}, num_detection_tokens=30
    ),
    "missing 2 required positional arguments": t.Siglip2VisionConfig(**BACKWARD, num_patches=16, patch_size=8),
    "its states are 24 wide, its config says 16": t.MobileViTConfig(
        image_size=64,
        hidden_sizes=[16, 16, 16],
        neck_hidden_sizes=[8, 8, 8, 8, 16, 16, 24],
        num_attention_heads=2,
    ),
}


@pytest.mark.parametrize("said", NO_PLACES)
def test_what_gives_no_states_of_places_is_refused_when_it_is_loaded(tmp_path, pictures, said):
    side = 64 if "MobileViT" in type(NO_PLACES[said]).__name__ else 32
    name = encoder_at(tmp_path / "odd", config=NO_PLACES[said], side=side)
    sight = looked_up(PictureMap(grid=1, encoder=name))
    for _ in range(2):
        with pytest.raises(InputError, match=rf"^adapter\.pictures: encoder {name}: .*{said}.*Remedy: a CLIP"):
            encoded(pictures, sight, CPU)


def test_a_preprocessor_of_another_size_is_named_with_both_sizes(tmp_path, pictures):
    name = encoder_at(tmp_path / "vit", "vit", side=64)
    sight = looked_up(PictureMap(grid=2, encoder=name))
    with pytest.raises(InputError, match=r"makes pictures of 64 x 64 pixels, its config says 32 x 32\. Remedy: the"):
        encoded(pictures, sight, CPU)


def test_a_preprocessor_that_fails_is_named_before_any_picture(tmp_path, pictures):
    folder = tmp_path / "vit"
    sight = looked_up(PictureMap(grid=2, encoder=encoder_at(folder, "vit")))
    prepares = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(prepares | {"image_mean": [0.5] * 7}))
    with pytest.raises(InputError, match=r"what prepares its pictures fails: .* Remedy: the preprocessor_config"):
        encoded(pictures, looked_up(sight.model_copy(update={"encoder_id": None})), CPU)


def test_measuring_an_encoder_draws_no_random_numbers(clip):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    assert PictureEncoder.from_pretrained(clip.encoder, clip.encoder_id, CPU).measure() == 32
    assert torch.equal(torch.random.get_rng_state(), state)


def test_other_files_than_planned_with_are_refused(clip, pictures):
    file = Path(clip.encoder) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(InputError, match="its files are not those that the trial was planned with"):
        PictureEncoder.from_pretrained(clip.encoder, clip.encoder_id, CPU)


def test_files_without_weights_are_refused(tmp_path):
    name = encoder_at(tmp_path / "vit", "vit")
    t.ViTConfig(**{**SMALL, "num_hidden_layers": 3}).save_pretrained(name)
    sight = looked_up(PictureMap(grid=2, encoder=name))
    with pytest.raises(InputError, match="its files hold no weights"):
        PictureEncoder.from_pretrained(name, sight.encoder_id, CPU)


def test_a_map_that_was_not_looked_up_says_so():
    with pytest.raises(InputError, match=r"is not known yet\. Remedy: dept\.backbones\.encoder_files\.looked_up"):
        AdapterConfig(pictures=PictureMap(encoder="openai/clip-vit-base-patch32")).trainable(32)
    with pytest.raises(ValueError, match="an encoder has its own size of pictures"):
        PictureMap(encoder="a/b", pixels=8)
    with pytest.raises(ValueError, match="none is named"):
        PictureMap(width=8)


def test_an_encoder_of_pictures_is_no_backbone(tmp_path):
    name = encoder_at(tmp_path / "vit", "vit")
    (tmp_path / "vit" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=rf"writes no text\. Remedy: adapter\.pictures\.encoder: {name}"):
        describe(name)
