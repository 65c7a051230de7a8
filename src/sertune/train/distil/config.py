"""The settings of `sertune distil`."""

from dataclasses import dataclass, field
from typing import Literal

from sertune.config import AudioConfig, AugmentConfig, Settings, need
from sertune.model.student import Shape


@dataclass(frozen=True)
class StudentConfig:
    """The size of the student: log-mel front, two convolutions, transformer layers."""

    layers: int = 3
    """Transformer layers."""
    width: int = 192
    """Channels of its states."""
    heads: int = 0
    """Attention heads; 0: one for every 64 channels."""
    feed_forward: int = 0
    """Width inside the feed-forward parts; 0: four times the width."""
    start: Literal["auto", "teacher", "random"] = "auto"
    """`teacher`: from a part of the weights of a Whisper-shaped teacher, its first layers, which saves many epochs.
    `random`: from nothing. `auto`: from the teacher where its shape allows."""

    @property
    def shape(self) -> Shape:
        """The same for `sertune.model.student`."""
        return Shape(self.layers, self.width, self.heads, self.feed_forward)


@dataclass(frozen=True)
class LossConfig:
    """How far the student is from the teacher; see `sertune.train.distil.loss`."""

    l1: float = 1.0
    """Weight of the L1 distance of the frames, on channels standardised over the audio."""
    cosine: float = 1.0
    """Weight of minus the log sigmoid of their cosine (DistilHuBERT, arXiv 2110.01900)."""
    mean: float = 1.0
    """Weight of the L1 distance of each clip's means over time, which pooling reads."""
    outputs: float = 1.0
    """Weight of the distance to the outputs of an emotion model: KL divergence of categories, L1 of dimensions."""
    match: Literal["layers", "last"] = "layers"
    """Which of the student's layers gives which of the teacher's: spread over them in order (`layers`), or all of them
    from the `last` one, as DistilHuBERT does; through a linear map each, which is thrown away afterwards."""


@dataclass(frozen=True)
class WindowConfig:
    """What is heard of the audio."""

    crop: float = 4.0
    """Longest clip, in seconds: longer files are cut into windows of equal length."""
    min_seconds: float = 0.05
    """Shorter files are bad files."""
    silence: float | Literal["auto"] = "auto"
    """Longest silence kept at either end, in seconds; 0: all of it. `auto`: 0.1, or as the emotion model has it."""
    level: float | Literal["auto"] = "auto"
    """RMS level in dB of full scale that every clip is brought to; 0: as it is. `auto`: -26, or as the emotion model
    has it."""


@dataclass(frozen=True)
class WaveConfig:
    """How views differ from the audio. Teacher and student hear the same."""

    wave_speed: list[float] = field(default_factory=lambda: [0.7, 1.45])
    """Smallest and largest factor of the speed, which changes the pitch too, as read speech varies little; []: off."""
    wave_reverb: list[float] = field(default_factory=lambda: [0.1, 0.6])
    """Shortest and longest reverberation time of a random room in seconds; []: off."""
    wave_channel: float = 6.0
    """Standard deviation in dB of a random frequency response, which may end early; 0: off."""
    wave_noise: list[float] = field(default_factory=lambda: [10.0, 40.0])
    """Lowest and highest signal-to-noise ratio of Gaussian noise in dB; []: off."""
    wave_mask: float = 0.0
    """Share of the samples set to zero, in random spans of 0.1 s, 0 to 1."""
    share: float = 0.5
    """How likely each of these but the speed is part of a view, 0 to 1."""

    @property
    def options(self) -> AugmentConfig:
        """The same for `sertune.data.waveform`."""
        return AugmentConfig(
            wave_speed=self.wave_speed,
            wave_reverb=self.wave_reverb,
            wave_channel=self.wave_channel,
            wave_noise=self.wave_noise,
            wave_mask=self.wave_mask,
        )


@dataclass(frozen=True)
class KeepConfig:
    """What the teacher makes of the audio, kept on disk."""

    states: bool = True
    """Keep it; otherwise teacher and augmentation run anew for every batch, which needs no disk and more time."""
    folder: str = ""
    """Keep it here, for all runs; empty: where the environment variable SERTUNE_CACHE says, or else in the run's folder
    until it is done."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float16"
    """How frames are written."""
    views: int = 4
    """Kept versions of every clip: the clip as it is, the others by augmentation. Each epoch draws one of them for
    every clip. Where nothing is kept, it draws a new one instead."""
    disk_gib: float = 20.0
    """Most that the whole folder may hold."""


@dataclass(frozen=True)
class FitConfig:
    """How the student is trained."""

    epochs: int = 20
    """Passes over the audio."""
    lr: float = 1e-3
    """Peak learning rate; it rises over the first steps and falls to zero by a cosine."""
    warmup: float = 0.05
    """Share of all steps in which it rises."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: off."""
    batch_clips: int = 16
    """Most clips in a batch."""
    batch_seconds: float = 100.0
    """Most seconds of (padded) audio in a batch."""
    held_out: float = 0.02
    """Share of the files that are not trained on; the report shows how near the student comes on them."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written at the end of each epoch, and after this many minutes within one."""


@dataclass(frozen=True)
class DistilConfig:
    """Everything that `sertune distil` needs to know."""

    teacher: str = ""
    """An encoder (hub name or folder), or a fine-tuned emotion model (a run folder)."""
    layers: list[int] = field(default_factory=list)
    """The teacher's layers that the student is to give: 0 is what enters the first one, the depth is the output.
    Empty: the inner ones, or those that the emotion model's head reads."""
    data: list[str] = field(default_factory=list)
    """Audio files, or folders with audio at any depth; no labels are needed. Repeatable."""
    student: StudentConfig = field(default_factory=StudentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    audio: WindowConfig = field(default_factory=WindowConfig)
    augment: WaveConfig = field(default_factory=WaveConfig)
    cache: KeepConfig = field(default_factory=KeepConfig)
    train: FitConfig = field(default_factory=FitConfig)
    probe: list[str] = field(default_factory=list)
    """Labelled data on which every layer of student and teacher is probed by a frozen linear model, e.g.
    `emodb:FOLDER`. It is not trained on."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on hardware that has it (of the teacher where it is wide enough to gain), else fp16 on a GPU, else
    fp32."""
    skip_bad: bool = False
    """Go on without files that can't be used; they are listed in the report."""
    seed: int = 0
    """Seeds everything that is random."""
    out: str = ""
    """The run folder."""


def check(config: DistilConfig) -> None:
    """Raises `SertuneError` for the first value that makes no sense, naming its key."""
    config.student.shape.check()
    loss, train, cache, audio = config.loss, config.train, config.cache, config.audio
    for key in ("l1", "cosine", "mean", "outputs"):
        need(getattr(loss, key) >= 0, f"loss.{key}", getattr(loss, key), "0 or more")
    need(loss.l1 + loss.cosine + loss.mean > 0, "loss.l1", loss.l1, "a weight above 0, or one of cosine and mean")
    need(len(set(config.layers)) == len(config.layers), "layers", config.layers, "each layer once")
    need(audio.min_seconds >= 0, "audio.min_seconds", audio.min_seconds, "seconds, 0 or more")
    least = f"seconds above 0, no less than audio.min_seconds = {audio.min_seconds:g}, at most 30"
    need(max(audio.min_seconds, 1e-9) <= audio.crop <= 30, "audio.crop", audio.crop, least)
    silence, level = audio.silence, audio.level
    need(silence == "auto" or silence >= 0, "audio.silence", silence, "seconds, 0 or more, or auto")
    need(level == "auto" or -80 <= level <= 0, "audio.level", level, "dB from -80, below 0, or 0: as it is, or auto")
    _check_augment(config.augment)
    need(cache.views >= 1, "cache.views", cache.views, "1 or more")
    need(cache.disk_gib >= 0, "cache.disk_gib", cache.disk_gib, "GiB, 0 or more")
    need(train.epochs >= 1, "train.epochs", train.epochs, "1 or more")
    need(train.lr > 0, "train.lr", train.lr, "a rate above 0")
    for key in ("weight_decay", "clip", "checkpoint_minutes"):
        need(getattr(train, key) >= 0, f"train.{key}", getattr(train, key), "0 or more")
    for key in ("warmup", "held_out"):
        need(0 <= getattr(train, key) < 1, f"train.{key}", getattr(train, key), "a share from 0, below 1")
    need(train.batch_clips >= 1, "train.batch_clips", train.batch_clips, "1 or more")
    need(train.batch_seconds > 0, "train.batch_seconds", train.batch_seconds, "seconds above 0")
    need(config.seed >= 0, "seed", config.seed, "0 or more")


def _check_augment(augment: WaveConfig) -> None:
    speed, room, noise = augment.wave_speed, augment.wave_reverb, augment.wave_noise
    good = not speed or (len(speed) == 2 and 0.5 <= speed[0] <= speed[1] <= 2)
    need(good, "augment.wave_speed", speed, "two factors from 0.5 to 2, the smaller one first, or []")
    good = not room or (len(room) == 2 and 0 < room[0] <= room[1] <= 10)
    need(good, "augment.wave_reverb", room, "two times in seconds above 0, at most 10, the smaller one first, or []")
    good = not noise or (len(noise) == 2 and -100 <= noise[0] <= noise[1] <= 100)
    need(good, "augment.wave_noise", noise, "two ratios in dB, from -100 to 100, the smaller one first, or []")
    need(0 <= augment.wave_channel <= 40, "augment.wave_channel", augment.wave_channel, "dB, 0 to 40")
    need(0 <= augment.wave_mask < 1, "augment.wave_mask", augment.wave_mask, "a share from 0, below 1")
    need(0 <= augment.share <= 1, "augment.share", augment.share, "a probability, 0 to 1")


def heard_as(config: WindowConfig, own: AudioConfig | None) -> AudioConfig:
    """Crop, silence and level of the clips, with what `auto` stands for.

    Args:
        config: of the run.
        own: settings of the emotion model that is the teacher.
    """
    base = own or AudioConfig()
    silence = base.silence if config.silence == "auto" else config.silence
    level = base.level if config.level == "auto" else config.level
    return AudioConfig(config.crop, config.min_seconds, silence, level)


DISTIL: Settings[DistilConfig] = Settings(
    DistilConfig, "distil", "sertune distil --teacher ENCODER|RUN --data FOLDER --out DIR [...]", check
)
