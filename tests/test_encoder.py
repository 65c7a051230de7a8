"""The split at the cut, on every family."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, save_family

from sertune.config import AudioConfig, HeadConfig, MethodConfig
from sertune.data.batch import LayerStates, collate, pad_states
from sertune.errors import AudioError, SertuneError
from sertune.model.emotion_model import EmotionModel, ModelSpec
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.targets import CategoryTarget

ALL = [*FAMILIES, "builtin"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("families")
    return {**{family: save_family(family, root / family) for family in FAMILIES}, "builtin": "builtin"}


def noise(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate))).astype(np.float32)


def whole(encoder: Encoder, audio: np.ndarray) -> torch.Tensor:
    """The model's own forward; for Whisper's encoder, which insists on 30 s, that is its own code cropped."""
    return encoder._whole(encoder.features(audio))


@pytest.mark.parametrize("family", ALL)
def test_replay_from_any_layer_equals_the_whole_model(family: str, folders: dict[str, str]) -> None:
    encoder = load_encoder(folders[family], check=False)
    audio = noise(1.3)
    with torch.no_grad():
        expected = whole(encoder, audio)
        hidden = encoder.replay(encoder.front(audio), 0)
        assert len(hidden) == encoder.depth + 1
        for start in range(encoder.depth + 1):
            out = encoder.replay(hidden[start], start)[-1].states if start < encoder.depth else hidden[-1].states
            torch.testing.assert_close(out, expected[:, : out.shape[1]], atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("family", ALL)
def test_plain_attention_gives_the_same_states(family: str, folders: dict[str, str]) -> None:
    fused, plain = (load_encoder(folders[family], check=False) for _ in range(2))
    plain.use_attention("plain")
    entering = pad_states([fused.front(noise(s)).states[0].detach() for s in (0.6, 1.1)])
    with torch.no_grad():
        for one, other in zip(fused.replay(entering, 0), plain.replay(entering, 0), strict=True):
            for row, length in enumerate(one.lengths.tolist()):
                torch.testing.assert_close(other.states[row, :length], one.states[row, :length], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ALL)
def test_gradients_equal_those_of_the_whole_model(family: str, folders: dict[str, str]) -> None:
    audio, gradients = noise(0.7), []
    for split in (True, False):
        encoder = load_encoder(folders[family], check=False)
        parameters = encoder.parameters_from(1)
        encoder.set_trainable(parameters, 1)
        if split:
            with torch.no_grad():
                entering = encoder.replay(encoder.front(audio), 0, 1)[-1]
            out = encoder.replay(entering, 1)[-1].states
        else:
            out = whole(encoder, audio)
        frames = encoder.replay(encoder.front(audio), 0)[-1].states.shape[1]
        weights = torch.linspace(-1, 1, out.shape[2])
        (out[:, :frames] * weights).mean().backward()
        gradients.append([p.grad for p in parameters])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ALL)
def test_a_clip_does_not_depend_on_its_batch_mates(family: str, folders: dict[str, str]) -> None:
    encoder = load_encoder(folders[family], check=False)
    model = EmotionModel(
        encoder,
        ModelSpec(folders[family], MethodConfig("partial"), HeadConfig(mix="last"), CategoryTarget(("a", "b"))),
    ).eval()
    with torch.no_grad():
        clips = [encoder.clip_states(noise(seconds, seed), model.start) for seed, seconds in enumerate((0.5, 1.7, 0.9))]
        targets = torch.zeros(3, 2)
        together = model(collate(clips, targets, ["", "", ""]))
        turned = model(collate(clips[::-1], targets, ["", "", ""])).flip(0)
        alone = torch.cat([model(collate([clip], targets[:1], [""])) for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together, turned, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("method", ["partial", "full", "full+front"])
def test_every_trainable_parameter_gets_a_gradient(family: str, method: str, folders: dict[str, str]) -> None:
    encoder = load_encoder(folders[family], check=False)
    options = MethodConfig(method.split("+")[0], front="front" in method)
    head = HeadConfig(mix="weighted", layers=sorted({0, 1, encoder.depth}), pooling="mean+std", dropout=0)
    model = EmotionModel(encoder, ModelSpec(folders[family], options, head, CategoryTarget(("a", "b", "c"))))
    torch.nn.init.normal_(model.head.output.get_parameter("weight"))
    model.train()
    audio = [noise(0.6, 1), noise(0.8, 2)]
    targets = torch.eye(3)[:2]
    if encoder.front_trains:
        batch = collate([], targets, ["", ""], audio=audio)
    else:
        batch = collate([encoder.clip_states(clip, model.start) for clip in audio], targets, ["", ""])
    model.target.loss(model(batch), targets).backward()
    trained = dict(model.named_parameters())
    missing = [name for name, p in trained.items() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # a key's bias shifts all scores of a query alike, which the softmax takes out again
    assert [name for name in missing if "k_proj.bias" not in name and "linear_k.bias" not in name] == []
    frozen = [name for name, p in trained.items() if not p.requires_grad and p.grad is not None]
    assert frozen == []


@pytest.mark.parametrize("family", ["wav2vec2-group", "wavlm", "sew", "w2v-bert", "whisper", "builtin"])
def test_saved_model_gives_the_same_output(family: str, folders: dict[str, str], tmp_path: Path) -> None:
    from sertune.model.emotion_model import load_model

    encoder = load_encoder(folders[family], check=False)
    _ = encoder.digest
    head = HeadConfig(
        pooling="attentive", mix="weighted", layers=[min(2, encoder.depth - 1), encoder.depth], hidden=[8]
    )
    if family == "sew":  # its last layer has another frame rate, which attention over single layers allows
        head = HeadConfig(pooling="attentive", layers=[1, 3], hidden=[8])
    spec = ModelSpec(folders[family], MethodConfig("partial", 1), head, CategoryTarget(("a", "b")), AudioConfig())
    model = EmotionModel(encoder, spec).eval()
    with torch.no_grad():
        for parameter in [*model.trained_parameters(), *model.head.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    expected = model.predict_audio([noise(0.9)])
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path)
    torch.testing.assert_close(loaded.predict_audio([noise(0.9)]), expected, atol=0, rtol=0)
    if family == "builtin":
        return
    save_family(family, tmp_path / "other", seed=1)
    with pytest.raises(SertuneError, match="digest"):
        load_model(tmp_path, encoder=str(tmp_path / "other"))


@pytest.mark.parametrize("family", ALL)
def test_clips_below_the_first_window_are_refused_in_words(family: str, folders: dict[str, str]) -> None:
    encoder = load_encoder(folders[family], check=False)
    least = encoder.min_samples
    assert 1 < least < 1600
    with torch.no_grad():
        states = encoder.clip_states(noise(1)[:least], 0)
    assert states.pooled.isfinite().all()
    with pytest.raises(AudioError, match=f"too short: {least - 1} samples"):
        encoder.front(noise(1)[: least - 1])


def test_whisper_runs_at_the_length_of_the_clip(folders: dict[str, str]) -> None:
    encoder = load_encoder(folders["whisper"])
    assert encoder.front(noise(2)).states.shape[1] == 100
    with pytest.raises(SertuneError, match=r"at most 30 s.*audio\.crop"):
        encoder.front(noise(31))


def test_training_mode_reaches_only_layers_above_the_cut(folders: dict[str, str]) -> None:
    encoder = load_encoder(folders["wav2vec2-group"], check=False)
    encoder.set_trainable(encoder.parameters_from(2), 2)
    encoder.train()
    modes = [layer.training for layer in encoder.layers]
    assert modes == [False, False, True]
    assert not encoder.model.feature_extractor.training  # type: ignore[union-attr]


def test_states_of_a_clip_are_the_same_in_training_mode(folders: dict[str, str]) -> None:
    encoder = load_encoder(folders["hubert"], check=False)
    encoder.set_trainable(encoder.parameters_from(1), 1)
    before = encoder.eval().clip_states(noise(0.8), 1)
    encoder.train()
    after = encoder.clip_states(noise(0.8), 1)
    assert torch.equal(before.pooled, after.pooled)
    assert encoder.training


def test_front_parameters_leave_out_what_nothing_uses(folders: dict[str, str]) -> None:
    encoder = load_encoder(folders["wav2vec2-group"], check=False)
    names = [name for name, _ in encoder.front_parameters()]
    assert any(name.startswith("feature_extractor") for name in names)
    assert not any("masked_spec_embed" in name for name in names)


def test_digest_changes_with_one_weight_and_not_with_unused_ones(folders: dict[str, str]) -> None:
    first, second = (load_encoder(folders["wav2vec2-group"], check=False) for _ in range(2))
    with torch.no_grad():
        first.model.masked_spec_embed.add_(1)  # type: ignore[operator]
    assert first.digest == second.digest
    third = load_encoder(folders["wav2vec2-group"], check=False)
    with torch.no_grad():
        next(third.layers[1].parameters()).view(-1)[0].add_(1e-3)
    assert third.digest != first.digest


def test_builtin_is_the_same_everywhere() -> None:
    assert load_encoder("builtin:random", check=False).digest == "6459c52d4b49a740aa21d8065d33243f"
    assert load_encoder("builtin", check=False).digest == "13150781a9fff66d6a9aa2b420ad2303"


def test_missing_weights_are_an_error_that_names_them(folders: dict[str, str], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folders["wav2vec2-group"], tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(file)
    name = "encoder.layers.1.attention.k_proj.weight"
    dropped = {key: value for key, value in tensors.items() if key != name}
    save_file(dropped, file, metadata={"format": "pt"})
    with pytest.raises(SertuneError, match=r"misses encoder weights .*layers\.1\.attention\.k_proj\.weight"):
        load_encoder(str(tmp_path / "copy"))
    save_file({**tensors, "encoder.layers.1.extra": torch.ones(2)}, file, metadata={"format": "pt"})
    with pytest.raises(SertuneError, match=r"unexpected encoder weights encoder\.layers\.1\.extra"):
        load_encoder(str(tmp_path / "copy"))
    save_file({**tensors, "lm_head.weight": torch.ones(2, 2)}, file, metadata={"format": "pt"})
    assert load_encoder(str(tmp_path / "copy"), check=False).digest == load_encoder(folders["wav2vec2-group"]).digest


def test_a_head_over_frames_of_frozen_layers_equals_one_pass(folders: dict[str, str]) -> None:
    """Replay starts below the cut where the head needs frames there; nothing else changes."""
    encoder = load_encoder(folders["wavlm"], check=False)
    head = HeadConfig(pooling="attentive", layers=[0, 1, 3], blend=0)
    model = EmotionModel(encoder, ModelSpec("", MethodConfig("partial", 1), head, CategoryTarget(("a", "b")))).eval()
    assert (encoder.cut, model.start) == (2, 0)
    with torch.no_grad():
        assert model.head.attention is not None
        torch.nn.init.normal_(model.head.attention.score.weight)
        entering = pad_states([encoder.front(noise(s)).states[0] for s in (0.6, 1.0)])
        hidden: list[LayerStates] = encoder.replay(entering, 0)
        expected = model.head(model.head.pool(hidden, 0, None))
        clips = [encoder.clip_states(noise(s), model.start) for s in (0.6, 1.0)]
        torch.testing.assert_close(model(collate(clips, torch.zeros(2, 2), ["", ""])), expected, atol=1e-6, rtol=1e-5)


def test_long_clips_are_windowed(folders: dict[str, str]) -> None:
    encoder = load_encoder(folders["whisper"], check=False)
    spec = ModelSpec("", MethodConfig("frozen"), HeadConfig(), CategoryTarget(("a", "b")), AudioConfig(crop=1.0))
    model = EmotionModel(encoder, spec).eval()
    long = noise(2.0)
    parts = model.predict_audio([long[:16000], long[16000:]])
    torch.testing.assert_close(model.predict_audio([long])[0], parts.mean(0))
