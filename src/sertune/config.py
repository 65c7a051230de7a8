"""The settings of a run: one nested dataclass that YAML, flags and Python share.

``RunConfig`` is what ``sertune train`` needs to know. A YAML file, a flag such as ``--method.layers 3`` and
``RunConfig(method=MethodConfig(layers=3))`` are the same thing. The text under each field is its help.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from sertune.errors import SertuneError, unknown, unknown_flag


@dataclass(frozen=True)
class AudioConfig:
    """What is read of each clip."""

    crop: float = 15.0
    """Longest part of a clip that is used, in seconds from its start. Longer files are predicted in windows."""
    min_seconds: float = 0.05
    """Clips shorter than this are bad files."""
    silence: float = 0.1
    """Longest silence kept at either end of a clip, in seconds, so that it does not matter how a corpus was cut; silent
    is what is 40 dB below the loudest 10 ms. 0: all of it."""
    level: float = -26.0
    """RMS level in dB of full scale that every clip is brought to before the encoder, so that the recording's gain does
    not matter; 0: as it is."""


@dataclass(frozen=True)
class RaterConfig:
    """Individual annotators (target `rater`, arXiv 2408.11956)."""

    of: Literal["dimension", "category"] = "dimension"
    """What each annotator gives: values of `dimension`s, or a `category`."""
    form: Literal["heads", "embedding"] = "heads"
    """`heads`: weights of his own for every annotator. `embedding`: a vector for each, at the input of one shared
    head."""
    branch: list[int] = field(default_factory=list)
    """Widths of the hidden layers (ReLU) between the head and the annotators, one branch per dimension. Empty: the
    average annotator is linear in the head's vector, as in the other targets, and starts from the solved model."""
    rank: int = 0
    """Directions of the head's vector, shared and learnt, in which annotators differ beside bias and gain. A branch's
    last width counts instead. With `embedding` the length of the vectors, where 0 stands for 8."""
    shrinkage: float | Literal["auto"] = "auto"
    """Ratings of the average annotator that each annotator's own part is blended with: one with few ratings is close to
    the average. `auto`: from the variance between and within annotators."""
    min_ratings: int = 1
    """Annotators with fewer ratings in the training part count as the average annotator."""
    min_raters: int = 1
    """Utterances with fewer annotators are left out."""


@dataclass(frozen=True)
class DistributionConfig:
    """The distribution of opinions (target `distribution`)."""

    of: Literal["auto", "votes", "plane", "gaussian", "beta"] = "auto"
    """`votes`: shares of the labels. `plane`: cells of the arousal-valence plane, by a softmax. `gaussian`, `beta`: a
    mean and a spread per dimension. `auto`: votes where there are any, else the plane."""
    loss: Literal["cross-entropy", "kl", "emd"] = "cross-entropy"
    """Of votes and the plane. `cross-entropy` and `kl` have the same gradient. `emd`: earth mover's distance, by
    Sinkhorn: a near cell, or an alike emotion, is a small mistake."""


@dataclass(frozen=True)
class PlaneConfig:
    """The arousal-valence plane as a distribution over cells, from ratings or from predicted annotators."""

    grid: list[int] = field(default_factory=lambda: [4, 4])
    """Cells along arousal and along valence."""
    truth: Literal["subsets", "ratings"] = "subsets"
    """What is spread over the true plane: means of random subsets of an utterance's ratings (arXiv 2408.11956), or the
    single ratings; both with noise, smoothed by diffusion."""
    kernel: Literal["diffusion", "gaussian"] = "diffusion"
    """How predicted annotators become a density: by diffusion (Botev et al. 2010), which finds its bandwidth, or with a
    Gaussian of `bandwidth`."""
    bandwidth: float = 0.0
    """Standard deviation of the Gaussian kernel, where the plane runs from -1 to 1; 0: Silverman's rule."""
    temperature: float = 8.0
    """Sharpness of the soft histogram's bins."""
    fine: int = 64
    """Bins of the soft histogram along each axis."""
    gradient: Literal["implicit", "detached"] = "implicit"
    """Whether the bandwidth that diffusion finds is differentiated too."""
    calibrate: bool = True
    """Let dev choose the plane's bandwidth (of a Gaussian kernel), how far predicted annotators and means are drawn
    apart, and the share of a solved softmax over the cells in it; off: what the kernel makes of the annotators."""


@dataclass(frozen=True)
class TargetConfig:
    """What is predicted."""

    name: str = "category"
    """`category`: one of the labels. `dimension`: arousal, valence, dominance on their own scale. `distribution`: how
    opinions spread. `rater`: what each annotator says. Joined by +: several tasks, e.g. `dimension+category`;
    `rater+density` also learns the plane that the predicted annotators make."""
    labels: list[str] = field(default_factory=list)
    """Categories to keep, in order; empty: all that the data has. Other clips are left out."""
    dimensions: list[str] = field(default_factory=list)
    """Dimensions to predict; empty: all that the data has."""
    weights: list[float] = field(default_factory=list)
    """Weight of each joined task's loss, in their order; empty: 1 each."""
    schedule: Literal["sum", "alternate"] = "sum"
    """Joined tasks: the weighted sum of their losses in every step, or one after the other, step by step."""
    class_weights: bool = False
    """Weigh the loss of each class by the inverse of its frequency in the training part. Off, as `adjustment` serves
    the same end; both together correct twice."""
    adjustment: float = 1.0
    """Logit adjustment: this times the log of each class's share is added to the logits in the loss, so that the
    decision favours rare classes as UAR asks for; 0: off."""
    label_smoothing: float = 0.1
    """Share of each label's probability that is spread over all labels, 0 to 1."""
    rater: RaterConfig = field(default_factory=RaterConfig)
    distribution: DistributionConfig = field(default_factory=DistributionConfig)
    plane: PlaneConfig = field(default_factory=PlaneConfig)

    @property
    def parts(self) -> tuple[str, ...]:
        """The tasks that are joined in `name`."""
        return tuple(self.name.split("+"))

    @property
    def about_labels(self) -> bool:
        """Whether one of the tasks is about labels."""
        votes = self.distribution.of in ("auto", "votes")
        of = {"category": True, "rater": self.rater.of == "category", "distribution": votes}
        return any(of.get(part, False) for part in self.parts)


TARGETS = ("category", "dimension", "distribution", "rater", "density")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank updates of weight matrices (Hu et al. 2022)."""

    rank: int = 8
    """Rank of each update."""
    alpha: float = 16.0
    """The update is scaled by alpha / rank (with `rslora` by alpha / sqrt(rank))."""
    dropout: float = 0.0
    """Dropout on the update's input."""
    targets: list[Literal["attention", "feed-forward"]] = field(default_factory=lambda: ["feed-forward"])
    """Linear maps that are updated: those of `attention`, of the `feed-forward` part (arXiv 2306.05350), or both."""
    rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023)."""
    start: str = ""
    """Folder of a PEFT adapter that the updates start from."""


@dataclass(frozen=True)
class AdapterConfig:
    """Bottleneck adapters at the feed-forward part of each layer (arXiv 2306.05350; Houlsby et al. 2019)."""

    bottleneck: int = 128
    """Width of the bottleneck."""
    scale: float = 0.1
    """Factor of the adapter's output."""
    dropout: float = 0.1
    """Dropout inside the bottleneck."""
    place: Literal["sequential", "parallel"] = "sequential"
    """`sequential`: reads the output of the feed-forward part. `parallel`: reads its input."""


@dataclass(frozen=True)
class PromptConfig:
    """Learnt vectors before every layer's input, removed after it (arXiv 2306.05350; Jia et al. 2022)."""

    length: int = 5
    """Vectors per layer."""


@dataclass(frozen=True)
class MethodConfig:
    """Which parameters of the encoder train."""

    name: str = "partial"
    """`frozen`: the head alone. `partial`: the last `layers` layers. `full`: all layers. `lora`, `adapter`, `prompt`,
    `bias` (BitFit): few parameters in the last `layers` layers. Joined by +: together, e.g. `lora+prompt`."""
    layers: int | Literal["auto", "all"] = "auto"
    """How many of the last layers train; `all`. `auto`: two, or one where the encoder has no more."""
    front: bool = False
    """With `full`: train the front (convolutions, projections) below the layers too."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)

    @property
    def parts(self) -> tuple[str, ...]:
        """The methods that are joined in `name`."""
        return tuple(self.name.split("+"))

    @property
    def label(self) -> str:
        """As it is shown: ``partial-3``, ``lora-all``, ``full``; ``partial`` with layers that are found."""
        plain = self.name in ("frozen", "full") or self.layers == "auto"
        return self.name if plain else f"{self.name}-{self.layers}"

    def described(self) -> dict[str, Any]:
        """What counts of it, for a report: the options of the methods that are named."""
        values: dict[str, Any] = {"name": self.name, "label": self.label, "layers": self.layers}
        if self.name in ("frozen", "full"):
            del values["layers"]
        for part in set(self.parts) & {"lora", "adapter", "prompt"}:
            values |= {f"{part}.{key}": value for key, value in to_dict(getattr(self, part)).items() if value != ""}
        return values


AUTO_LAYERS = 2
"""How many of the last layers train with ``method.layers: auto``, where there are as many."""


def auto_layers(depth: int) -> int:
    """What ``method.layers: auto`` stands for in an encoder of ``depth`` layers."""
    return min(AUTO_LAYERS, depth)


METHODS = ("frozen", "partial", "full", "lora", "adapter", "prompt", "bias")


@dataclass(frozen=True)
class HeadConfig:
    """From the encoder's states to the outputs."""

    layers: list[int] = field(default_factory=list)
    """Layers that are read: 0 is what enters the first layer, the depth is the encoder's output. Empty: those that the
    method changes; with `frozen` the inner ones; with `mix: last` the last one."""
    mix: Literal["concat", "weighted", "last"] = "concat"
    """`concat`: layers side by side. `weighted`: a learnt softmax mix. `last`: the last layer alone."""
    pooling: Literal["mean", "mean+std", "attentive"] = "mean"
    """How frames become one vector per layer."""
    standardise: Literal["channel", "layer", "none"] = "channel"
    """How pooled vectors are scaled by the training part: every `channel` to unit spread; every `layer` by one number,
    which keeps what varies most largest; `none`: they are centred alone."""
    convolutions: list[int] = field(default_factory=list)
    """Widths of pointwise convolutions (ReLU, dropout) over the mixed frames, before pooling (arXiv 2306.05350); they
    need the frames of all layers that are read, and always start at random. Empty: none."""
    hidden: list[int] = field(default_factory=list)
    """Widths of the hidden layers of the MLP; empty: linear."""
    dropout: float = 0.2
    """Dropout on the pooled vector and after every hidden layer and convolution."""
    start: Literal["probe", "random"] = "probe"
    """`probe`: a linear head starts from the regularised linear model on the frozen states."""
    start_regularisation: float = 1.0
    """Strength of that model where the encoder trains after it: a weak start leaves more to learn."""
    blend: float = 0.3
    """Share in the output of a frozen linear model on the states at the cut (0: none). It is solved on its own and
    averaged with the trained head: log-probabilities of categories, values of dimensions."""
    regularisation: list[float] = field(default_factory=lambda: [0.01, 0.03, 0.1, 0.3])
    """Strengths tried for solved linear models (dev chooses): the L2 penalty per training clip."""


@dataclass(frozen=True)
class SplitConfig:
    """Who trains, who chooses, who tests."""

    name: str = "auto"
    """`auto`: the corpus's own published protocol (see `sertune corpora`), or else `speaker`. `official` partitions,
    `loso` leave one speaker out, `kfold` over speakers, one `speaker` split, `random` (speaker-dependent), or a
    published protocol by its name, e.g. `iemocap-5fold`."""
    folds: int = 5
    """Folds of `kfold`."""
    test: float = 0.2
    """Share of the test part (`speaker`, `random`)."""
    dev: float = 0.1
    """Share of the dev part (`speaker`, `random`, and where `official` has none)."""
    dev_speakers: int = 1
    """Dev speakers per fold of `loso`."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation, in training only: of the states above the cut and, by `wave_...`, of the samples themselves."""

    time_crop: list[float] = field(default_factory=lambda: [0.5, 1.0])
    """Smallest and largest share of a clip's frames that is kept, as one random window; 1 1: all."""
    time_mask: float = 0.0
    """Share of the frames hidden by random spans, 0 to 1."""
    time_span: float = 0.2
    """Length of a hidden span in seconds."""
    channel_mask: float = 0.0
    """Share of the state's channels set to zero per clip, 0 to 1."""
    mixup: float = 0.0
    """Alpha of the Beta distribution that mixes pooled vectors and labels of two clips; 0: off."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, relative to that of the states."""
    wave_noise: list[float] = field(default_factory=list)
    """Lowest and highest signal-to-noise ratio in dB of Gaussian noise on the samples, e.g. 10 30; empty: off."""
    wave_mask: float = 0.0
    """Share of the samples set to zero, in random spans of 0.1 s, 0 to 1."""
    wave_speed: list[float] = field(default_factory=list)
    """Smallest and largest factor of the speed, which changes the pitch too, e.g. 0.9 1.1; empty: off."""
    wave_gain: float = 0.0
    """Largest change of the level in dB, either way; 0: off."""
    wave_channel: float = 0.0
    """Standard deviation in dB of a random frequency response, as of other microphones and codecs, e.g. 6; 0: off."""
    wave_reverb: list[float] = field(default_factory=list)
    """Shortest and longest reverberation time of a random room in seconds, e.g. 0.1 0.6; empty: off."""


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained."""

    epochs: int = 6
    """Passes over the training part; dev chooses the one that is kept."""
    choose: Literal["within-error", "best", "last"] = "within-error"
    """What dev chooses. `within-error`: the latest within one standard error of the best. `best`: the best. `last`: the
    last, whatever dev says of it."""
    lr: float | Literal["auto"] = "auto"
    """Peak learning rate of the encoder; `auto`: that of its method, 1e-4 for `full`, 3e-4 for `partial`, 1e-3 to 3e-3
    for those that train few parameters."""
    head_lr: float = 1e-3
    """Peak learning rate of the head."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    warmup: float = 0.1
    """Share of all steps in which the rates rise from zero."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """After the warm-up: `cosine` to zero, halved when dev stops improving (`plateau`), or `constant`."""
    plateau_patience: int = 2
    """Epochs without a better dev score before `plateau` halves the rates."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: off."""
    batch_clips: int = 16
    """Most clips in a batch."""
    batch_seconds: float = 100.0
    """Most seconds of (padded) audio in a batch."""
    checkpointing: bool = False
    """Compute layers that train again in the backward pass: less memory, about a third more time."""
    accumulate: int = 1
    """Split each batch into this many parts; the loss is still that of the whole batch."""
    patience: int = 0
    """Stop after this many epochs without a better dev score; 0: never."""
    refit: Literal["auto", "solved", "all", "none"] = "auto"
    """`solved`: once dev has chosen, what is solved, not trained (frozen models, the blend, the baseline), is fitted
    again on train and dev together. `all`: what is trained, too, once more from the start, for all epochs. `auto`:
    `solved`, but nothing with an `official` split or a published one of one fold."""
    unfreeze_epoch: int = 0
    """Epochs in which the head trains alone before the encoder joins."""
    average: float = 0.97
    """Decay per step of the running average of the weights that is evaluated and kept; 0: off."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written at the end of each epoch, and after this many minutes within one."""


@dataclass(frozen=True)
class CacheConfig:
    """States of the frozen part, computed once."""

    states: bool = True
    """Keep them; otherwise they are computed again for every batch."""
    folder: str = ""
    """Keep them on disk here, for all runs; empty: where the environment variable SERTUNE_CACHE says, or else in memory
    for this run."""
    dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    """How frames are written to disk. `auto`: as precise as the run computes, so that kept states are the same numbers
    (float32; bfloat16 under bf16, float16 under fp16). `int8` has one scale per frame. Pooled vectors are float32."""
    views: int = 1
    """Kept versions of every clip: the clip as it is, the others by waveform augmentation (`augment.wave_...`).
    Training draws one of them per clip and epoch."""
    disk_gib: float = 20.0
    """Most that the whole folder may hold."""
    limit_gib: float = 4.0
    """Most memory that states may take without a folder; beyond it they are computed again for every batch."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that `sertune train` needs to know."""

    data: list[str] = field(default_factory=list)
    """Corpora: `emodb:FOLDER`, `table.csv`, `table.parquet`, a saved manifest, `synthetic`. Repeatable."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of a table's columns, e.g. `--columns.emotion my_label`."""
    label_map: str = ""
    """How labels are brought together: a named map (`4class`, `big6`, `emodb7`, `paper-d`, `quadrants`) or a YAML file;
    `none`: as they are, under canonical names. Empty: that of the corpus's protocol where it has one, or `none`."""
    absent: Literal["keep", "drop", "mask"] = "keep"
    """With several corpora, a class that one of them lacks. `keep`: as any other. `drop`: left out. `mask`: clips of a
    corpus say nothing about classes that it lacks, and in dev and test are not taken for them."""
    weights: list[float] = field(default_factory=list)
    """Sampling weight of each `--data`, in their order: shares of the clips of an epoch. Empty: all clips alike."""
    encoder: str = "builtin"
    """A hub name, a folder (of transformers or SpeechBrain), or `builtin`."""
    target: TargetConfig = field(default_factory=TargetConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on hardware that has it, else fp16 on a GPU, else fp32."""
    attention: Literal["auto", "plain", "sdpa", "flash"] = "auto"
    """How attention above the cut is computed: `plain` matrix products, torch's fused `sdpa`, or `flash` (GPU, half
    precision; without dropout of the attention weights)."""
    baseline: bool = True
    """Score the frozen baseline beside the model."""
    skip_bad: bool = False
    """Go on without files that can't be used; they are listed in the report."""
    seed: int = 0
    """Seeds everything that is random."""
    out: str = ""
    """The run folder."""


SHORTHANDS = ("target", "method", "split")
"""Sections that can be given by their name alone: ``--method partial`` is ``--method.name partial``."""


SWITCHES = ["--config", "--dry-run", "--overwrite", "--print-config"]
"""Flags of the command that are no settings."""


Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Settings(Generic[Kind]):
    """How the settings of a command are read from a dict, flags and YAML files.

    Attributes:
        kind: the dataclass that holds them.
        command: its name.
        usage: the first line of its help.
        check: raises `SertuneError` for the first value that makes no sense.
        shorthands: sections that can be given by their name alone.
    """

    kind: type[Kind]
    command: str
    usage: str
    check: Callable[[Kind], None]
    shorthands: tuple[str, ...] = ()

    def hint_of(self, key: str) -> Any:
        """The type of a key's value; text for what lies below a mapping, such as ``columns.emotion``."""
        kind: Any = self.kind
        for name in key.split("."):
            if not dataclasses.is_dataclass(kind):
                return str
            kind = get_type_hints(kind).get(name, str)
        return kind

    def hint(self, key: str) -> str:
        """The same as text."""
        kind = self.hint_of(key)
        return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__origin__") else str(kind)

    def from_dict(self, values: dict[str, Any]) -> Kind:
        """As `sertune.config.from_dict`."""
        values = _expand_shorthands(values, self)
        _check_keys(self, self.kind, values, "")
        return _instantiate(lambda parser: parser.parse_object(values), self)

    def from_flags(self, flags: list[str]) -> Kind:
        """As `sertune.config.from_flags`."""
        return _instantiate(lambda parser: parser.parse_args(_expand_flags(flags, self)), self)

    def flags_help(self) -> str:
        """The help text of all flags."""
        text: str = _parser(self, helps=True).format_help()
        text = re.sub(r", --[\w.]+\+ \[ITEM,...\]", "", text)  # the parser's own way to append, which flags don't need
        for name, hint in get_type_hints(self.kind).items():
            if dataclasses.is_dataclass(hint):
                gap = " " * (16 - len(name))
                short = f"  --{name} NAME{gap}Short for --{name}.name NAME.\n" if name in self.shorthands else ""
                text = re.sub(rf"  --{name} CONFIG +Path to a configuration file\.\n", short, text)
        return text


def to_dict(config: Any) -> dict[str, Any]:
    """A nested dict of plain values, as it is written to YAML."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The configuration with the given values and defaults elsewhere.

    Raises:
        SertuneError: an unknown key (with the nearest name), a wrong type, or a value that makes no sense.
    """
    return TRAIN.from_dict(values)


def from_flags(flags: list[str]) -> RunConfig:
    """The configuration of a command line: ``--config FILE.yaml`` first, then every other flag over it.

    Raises:
        SertuneError: as `from_dict`; an unknown flag is named with the nearest one.
    """
    return TRAIN.from_flags(flags)


def given_keys(flags: list[str]) -> set[str]:
    """The keys that a command line sets by flags of their own, not through a ``--config`` file."""
    apart = [flag for flag in flags if flag.startswith("--") and flag.partition("=")[0] != "--config"]
    names = (flag[2:].partition("=")[0] for flag in apart)
    return {f"{name}.name" if name in SHORTHANDS else name for name in names}


def flags_help() -> str:
    """The help text of all flags of `sertune train`."""
    return TRAIN.flags_help()


def load_yaml(file: str | Path) -> dict[str, Any]:
    """The nested dict of a YAML file.

    Raises:
        SertuneError: the file is missing, is no YAML, or holds no mapping.
    """
    import yaml

    path = Path(file)
    if not path.is_file():
        raise SertuneError(f"{path}: no such configuration file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SertuneError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SertuneError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values


def dump_yaml(config: Any) -> str:
    """The configuration as YAML, every value stated."""
    import yaml

    text: str = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    return text


def all_keys() -> list[str]:
    """Every key that holds a value, as ``train.lr``."""
    keys = list(_keys(RunConfig))
    return [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]


def value_at(config: RunConfig, key: str) -> Any:
    """The value of a key such as ``train.lr``."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The configuration with other values of some keys, such as ``{"train.lr": 1e-3}``; `validate` looks at them."""
    for key, value in values.items():
        config = _with_value(config, key.split("."), value)
    return config


def _with_value(part: Any, names: list[str], value: Any) -> Any:
    first, *rest = names
    return dataclasses.replace(part, **{first: _with_value(getattr(part, first), rest, value) if rest else value})


def check_type(key: str, value: Any) -> None:
    """Raises `SertuneError` where a value is not of the type that its key wants; `from_dict` would, but slowly."""
    if not _fits(TRAIN.hint_of(key), value):
        raise SertuneError(f"{key} = {value!r}: expected {_words(TRAIN.hint_of(key))}")


def _fits(hint: Any, value: Any) -> bool:
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(get_args(hint)[0], item) for item in value)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(_fits(option, value) for option in get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _words(hint: Any) -> str:
    """A type as a user knows it."""
    if get_origin(hint) is list:
        return f"a list of {_words(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_args(hint):
        return " or ".join(_words(option) for option in get_args(hint))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))


def validate(config: RunConfig) -> None:
    """Raises `SertuneError` for the first value that makes no sense, naming its key."""
    train, augment, head = config.train, config.augment, config.head
    need(config.seed >= 0, "seed", config.seed, "0 or more")
    need(bool(config.encoder), "encoder", repr(config.encoder), "a hub name, a folder or builtin")
    need(bool(config.split.name), "split.name", repr(config.split.name), "a protocol, e.g. auto, loso or speaker")
    if config.weights:
        good = len(config.weights) == len(config.data) and min(config.weights) > 0
        need(good, "weights", config.weights, f"a number above 0 for each of the {len(config.data)} data")
    for key, names in (("target.labels", config.target.labels), ("target.dimensions", config.target.dimensions)):
        need(len(set(names)) == len(names), key, " ".join(names), "each name once")
    need(config.audio.min_seconds >= 0, "audio.min_seconds", config.audio.min_seconds, "seconds, 0 or more")
    need(config.audio.crop > 0, "audio.crop", config.audio.crop, "seconds above 0")
    need(
        config.audio.crop >= config.audio.min_seconds,
        "audio.crop",
        config.audio.crop,
        f"no less than audio.min_seconds = {config.audio.min_seconds}",
    )
    need(config.audio.silence >= 0, "audio.silence", config.audio.silence, "seconds, 0 or more")
    need(-80 <= config.audio.level <= 0, "audio.level", config.audio.level, "dB from -80, below 0, or 0: as it is")
    for key in ("limit_gib", "disk_gib"):
        need(getattr(config.cache, key) >= 0, f"cache.{key}", getattr(config.cache, key), "GiB, 0 or more")
    need(config.cache.views >= 1, "cache.views", config.cache.views, "1 or more")
    need(
        0 <= config.target.label_smoothing < 1,
        "target.label_smoothing",
        config.target.label_smoothing,
        "0 to 1",
    )
    need(config.target.adjustment >= 0, "target.adjustment", config.target.adjustment, "0 or more")
    _validate_target(config)
    _validate_method(config.method)
    need(0 <= head.dropout < 1, "head.dropout", head.dropout, "0 to 1")
    for key in ("hidden", "convolutions"):
        need(all(width > 0 for width in getattr(head, key)), f"head.{key}", getattr(head, key), "widths above 0")
    need(
        bool(head.regularisation) and min(head.regularisation) > 0,
        "head.regularisation",
        head.regularisation,
        "at least one strength above 0",
    )
    need(head.start_regularisation > 0, "head.start_regularisation", head.start_regularisation, "a strength above 0")
    need(0 <= head.blend < 1, "head.blend", head.blend, "a share from 0, below 1")
    if config.absent == "mask" and augment.mixup:
        raise SertuneError("absent = mask: can't be had with augment.mixup, which mixes labels of unlike corpora")
    need(train.epochs >= 0, "train.epochs", train.epochs, "0 or more")
    need(train.lr == "auto" or train.lr >= 0, "train.lr", train.lr, "0 or more, or auto")
    for key in ("head_lr", "weight_decay", "clip"):
        need(getattr(train, key) >= 0, f"train.{key}", getattr(train, key), "0 or more")
    need(0 <= train.warmup < 1, "train.warmup", train.warmup, "a share from 0 to 1")
    for key in ("batch_clips", "accumulate"):
        need(getattr(train, key) >= 1, f"train.{key}", getattr(train, key), "1 or more")
    need(train.batch_seconds > 0, "train.batch_seconds", train.batch_seconds, "seconds above 0")
    need(0 <= train.average < 1, "train.average", train.average, "a decay from 0 to 1")
    need(train.plateau_patience >= 1, "train.plateau_patience", train.plateau_patience, "1 or more")
    for key in ("patience", "unfreeze_epoch", "checkpoint_minutes"):
        need(getattr(train, key) >= 0, f"train.{key}", getattr(train, key), "0 or more")
    if train.unfreeze_epoch and train.unfreeze_epoch >= train.epochs:
        raise SertuneError(
            f"train.unfreeze_epoch = {train.unfreeze_epoch}: the encoder would never train in "
            f"{train.epochs} epochs; choose a smaller value, or --method frozen"
        )
    if train.refit == "all":
        if train.schedule == "plateau":
            raise SertuneError("train.refit = all: can't be had with train.schedule plateau, which needs a dev part")
        if "rater" in config.target.parts:
            raise SertuneError(
                f"train.refit = all: can't be had with target {config.target.name}, whose spread dev calibrates; "
                "choose solved"
            )
    good = len(augment.time_crop) == 2 and 0 < augment.time_crop[0] <= augment.time_crop[1] <= 1
    need(good, "augment.time_crop", augment.time_crop, "two shares above 0, at most 1, the smaller one first")
    for key in ("time_mask", "channel_mask", "wave_mask"):
        need(0 <= getattr(augment, key) < 1, f"augment.{key}", getattr(augment, key), "a share from 0 to 1")
    for key in ("mixup", "noise", "wave_gain", "wave_channel"):
        need(getattr(augment, key) >= 0, f"augment.{key}", getattr(augment, key), "0 or more")
    need(augment.time_span > 0, "augment.time_span", augment.time_span, "seconds above 0")
    noise, speed = augment.wave_noise, augment.wave_speed
    good = not noise or (len(noise) == 2 and -100 <= noise[0] <= noise[1] <= 100)
    need(good, "augment.wave_noise", noise, "two ratios in dB, from -100 to 100, the smaller one first, or none")
    good = not speed or (len(speed) == 2 and 0.5 <= speed[0] <= speed[1] <= 2)
    need(good, "augment.wave_speed", speed, "two factors from 0.5 to 2, the smaller one first, or none")
    room = augment.wave_reverb
    good = not room or (len(room) == 2 and 0 < room[0] <= room[1] <= 10)
    need(good, "augment.wave_reverb", room, "two times in seconds above 0, at most 10, the smaller one first, or none")
    need(augment.wave_channel <= 40, "augment.wave_channel", augment.wave_channel, "dB, at most 40")
    need(augment.wave_gain <= 60, "augment.wave_gain", augment.wave_gain, "dB, at most 60")
    if augment.wave_gain and config.audio.level:
        raise SertuneError(
            f"augment.wave_gain = {augment.wave_gain:g}: has no effect, as audio.level brings every clip to one level; "
            "set --audio.level 0, or leave it out"
        )


def _validate_target(config: RunConfig) -> None:
    target, plane, rater = config.target, config.target.plane, config.target.rater
    for part in target.parts:
        if part not in TARGETS:
            raise unknown("target", part, TARGETS)
    need(len(set(target.parts)) == len(target.parts), "target.name", target.name, "each task once")
    if "density" in target.parts:
        good = "rater" in target.parts and rater.of == "dimension"
        need(good, "target.name", target.name, "density together with rater (of dimensions), as in rater+density")
    good = not target.weights or (len(target.weights) == len(target.parts) and min(target.weights) > 0)
    need(good, "target.weights", target.weights, f"a number above 0 for each task of {target.name}")
    need(all(width > 0 for width in rater.branch), "target.rater.branch", rater.branch, "widths above 0")
    need(rater.rank >= 0, "target.rater.rank", rater.rank, "0 or more")
    need(
        rater.shrinkage == "auto" or rater.shrinkage >= 0,
        "target.rater.shrinkage",
        rater.shrinkage,
        "0 or more, or auto",
    )
    for key in ("min_ratings", "min_raters"):
        need(getattr(rater, key) >= 1, f"target.rater.{key}", getattr(rater, key), "1 or more")
    good = len(plane.grid) == 2 and min(plane.grid) >= 2 and max(plane.grid) <= 64
    need(good, "target.plane.grid", plane.grid, "two numbers of cells, each from 2 to 64, e.g. 4 4")
    need(0 <= plane.bandwidth <= 2, "target.plane.bandwidth", plane.bandwidth, "0 to 2, where the plane is 2 wide")
    need(plane.temperature > 0, "target.plane.temperature", plane.temperature, "a number above 0")
    need(16 <= plane.fine <= 256, "target.plane.fine", plane.fine, "16 to 256 bins")
    if plane.bandwidth and plane.kernel != "gaussian":
        raise SertuneError(
            f"target.plane.bandwidth = {plane.bandwidth:g}: is for the gaussian kernel; diffusion finds its own"
        )
    if config.augment.mixup and {"rater", "distribution"} & set(target.parts):
        raise SertuneError(
            f"augment.mixup = {config.augment.mixup:g}: can't be had with target {target.name}: ratings of two clips "
            "can't be mixed"
        )


def _validate_method(method: MethodConfig) -> None:
    for part in method.parts:
        if part not in METHODS:
            raise unknown("method", part, METHODS)
    single = len(method.parts) == 1 or "frozen" not in method.parts
    once = len(set(method.parts)) == len(method.parts)
    need(single and once, "method.name", method.name, "each method once, and frozen alone")
    layers = method.layers
    good = isinstance(layers, str) or layers >= 1
    need(good, "method.layers", layers, "1 or more, all, or auto (or --method frozen)")
    lora, adapter = method.lora, method.adapter
    need(lora.rank >= 1, "method.lora.rank", lora.rank, "1 or more")
    need(lora.alpha > 0, "method.lora.alpha", lora.alpha, "a number above 0")
    need(0 <= lora.dropout < 1, "method.lora.dropout", lora.dropout, "0 to 1")
    need(bool(lora.targets), "method.lora.targets", lora.targets, "attention, feed-forward or both")
    need(adapter.bottleneck >= 1, "method.adapter.bottleneck", adapter.bottleneck, "1 or more")
    need(adapter.scale > 0, "method.adapter.scale", adapter.scale, "a factor above 0")
    need(0 <= adapter.dropout < 1, "method.adapter.dropout", adapter.dropout, "0 to 1")
    need(method.prompt.length >= 1, "method.prompt.length", method.prompt.length, "1 or more")


def need(good: bool, key: str, value: object, expected: str) -> None:
    """Raises `SertuneError` for a value that makes no sense, naming its key and what was expected."""
    if not good:
        raise SertuneError(f"{key} = {value}: expected {expected}")


def _parser(of: Settings[Any], *, helps: bool = False) -> Any:
    """The parser of all flags; ``helps`` reads the text under each field as its help, which takes a moment."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=helps)
    parser = ArgumentParser(prog=f"sertune {of.command}", exit_on_error=False, usage=of.usage)
    parser.add_argument("--config", action="append", metavar="FILE.yaml", help="settings; flags go over them")
    parser.add_class_arguments(of.kind)
    return parser


def _instantiate(parse: Callable[[Any], Any], of: Settings[Kind]) -> Kind:
    """Runs a parse and turns its errors into one line."""
    from jsonargparse import ArgumentError

    parser = _parser(of)
    try:
        parsed = parser.instantiate(parse(parser))
    except ArgumentError as error:
        raise SertuneError(_one_line(str(error))) from None
    kind: Any = of.kind
    config: Kind = kind(**{entry.name: parsed[entry.name] for entry in dataclasses.fields(kind)})
    of.check(config)
    return config


def _one_line(message: str) -> str:
    """jsonargparse's message in one line, in the words of a user."""
    line = " ".join(message.split())
    line = re.sub(r"Expected an? <class '(\w+)'>", r"expected \1", line)
    union = re.sub(r".*?: Does not validate against any of the Union subtypes.*Given value: (.*)$", r"\1", line)
    if union != line:
        key = re.sub(r'^Parser key "([^"]+)":.*', r"\1", line)
        wanted = [part.strip().rstrip(".") for part in re.findall(r"- [Ee]xpected (.*?)(?= - | Given)", line)]
        wanted = [
            re.sub(r"^an? (?:<class '(\w+)'>|typing\.Literal\[(.*)\]).*|one of (.*)", r"\1\2\3", part)
            for part in wanted
        ]
        return f"{key}: expected {' or '.join(wanted)}, found {union}"
    line = re.sub(r"Expected an? typing\.Literal\[(.*?)\]", r"expected one of \1", line)
    line = re.sub(r"\. Got value: ", ", found ", line)
    return re.sub(r'^Parser key "([^"]+)":', r"\1:", line)


def _keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration class, as ``train.lr``."""
    for name, hint in get_type_hints(kind).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{name}.")


def _check_keys(of: Settings[Any], kind: Any, values: Any, prefix: str) -> None:
    if not isinstance(values, dict):
        raise SertuneError(f"{prefix.rstrip('.') or 'configuration'}: expected keys and values, found {values!r}")
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise unknown_key(prefix + str(key), of)
        if dataclasses.is_dataclass(hints[key]):
            _check_keys(of, hints[key], value, f"{prefix}{key}.")
        elif isinstance(value, dict) and prefix + key != "columns":
            raise SertuneError(f"{prefix}{key}: expected a value, found keys and values")


def unknown_key(key: str, of: Settings[Any] | None = None) -> SertuneError:
    """The error for a key that the settings (of `sertune train`) do not have, with the nearest one."""
    of = of or TRAIN
    near = get_close_matches(key, list(_keys(of.kind)), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return SertuneError(f"unknown key {key!r}{hint} (all keys: sertune {of.command} --print-config)")


def _expand_shorthands(values: dict[str, Any], of: Settings[Any]) -> dict[str, Any]:
    """``method: partial`` becomes ``method: {name: partial}``; one corpus becomes a list of one."""
    expanded = dict(values)
    for name in of.shorthands:
        if isinstance(expanded.get(name), str):
            expanded[name] = {"name": expanded[name]}
    if isinstance(expanded.get("data"), str):
        expanded["data"] = [expanded["data"]]
    return expanded


def _expand_flags(flags: list[str], of: Settings[Any]) -> list[str]:
    """Flags in the parser's own spelling; ``--config`` files come first, as if they were flags."""
    known = set(_keys(of.kind))
    lists = {key for key in known if of.hint(key).startswith("list")}
    sections = {key for key in known if any(other.startswith(f"{key}.") for other in known)} - set(of.shorthands)
    head: list[str] = []
    tail: list[str] = []
    given: set[str] = set()
    position = 0
    while position < len(flags):
        flag, equals, value = flags[position].partition("=")
        position += 1
        if not flag.startswith("--"):
            raise SertuneError(f"unexpected {flag!r}: every setting is a flag, such as --data emodb:FOLDER")
        key = flag[2:].replace("-", "_") if flag[2:] not in known else flag[2:]
        if key != "config" and key not in known and not key.startswith("columns."):
            raise unknown_flag(flag, [f"--{name}" for name in sorted(known)] + SWITCHES, f"sertune {of.command} --help")
        if key in sections:
            raise SertuneError(
                f"{flag}: is a section; set a value in it, e.g. --{min(k for k in known if k.startswith(key + '.'))}"
            )
        values = [value] if equals else []
        while not equals and position < len(flags) and not flags[position].startswith("--"):
            values.append(flags[position])
            position += 1
        if not values and of.hint(key) == "bool":
            values = ["true"]
        if not values:
            raise SertuneError(f"{flag}: expected a value")
        if key == "config":
            for file in values:
                head += _as_flags(_loaded(file, of))
        elif key in lists:
            # the first replaces what a file or the default says, the others are appended
            for item in values:
                tail.append(f"--{key}{'+' if key in given else ''}={_listed(item, of.hint(key))}")
                given.add(key)
        elif len(values) > 1:
            raise SertuneError(f"{flag}: expected one value, found {len(values)}: {' '.join(values)}")
        else:
            tail.append(f"--{key}{'.name' if key in of.shorthands else ''}={values[0]}")
    return head + tail


def _loaded(file: str, of: Settings[Any]) -> dict[str, Any]:
    """The values of a YAML file, with keys that exist; errors name the file."""
    loaded = _expand_shorthands(load_yaml(file), of)
    try:
        _check_keys(of, of.kind, loaded, "")
    except SertuneError as error:
        raise SertuneError(f"{file}: {error}") from None
    return loaded


def _as_flags(values: dict[str, Any], prefix: str = "") -> list[str]:
    flags: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            flags += _as_flags(value, f"{prefix}{key}.")
        else:
            flags.append(f"--{prefix}{key}={json.dumps(value) if not isinstance(value, str) else value}")
    return flags


def _listed(item: str, hint: str) -> str:
    """One item as a list of its own; lists of text stay text also where they look like numbers."""
    if item.startswith("["):
        return item
    return json.dumps([item]) if hint == "list[str]" else f"[{item}]"


def takes_list(key: str) -> bool:
    """Whether a key's value is a list."""
    return get_origin(TRAIN.hint_of(key)) is list


def takes_text(key: str) -> bool:
    """Whether a key's value, or what is in its list, may be text of any kind."""
    kind = TRAIN.hint_of(key)
    return kind is str or (get_origin(kind) is list and get_args(kind)[0] is str)


TRAIN: Settings[RunConfig] = Settings(
    RunConfig, "train", "sertune train --data D --out RUN [...]", validate, SHORTHANDS
)
