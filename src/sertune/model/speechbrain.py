"""SpeechBrain's emotion recognisers on wav2vec 2.0, read without SpeechBrain and without running their code.

The layout is that of ``speechbrain/emotion-recognition-wav2vec2-IEMOCAP``, the encoder of arXiv 2510.07052, and of what
SpeechBrain's IEMOCAP recipe trains: ``hyperparams.yaml`` says what is computed, ``wav2vec2.ckpt`` holds the encoder,
``model.ckpt`` the last layer, ``label_encoder.txt`` the labels. The YAML's tags (``!new:``, ``!apply:``) would make
objects and call functions; here they are data. Python files that lie beside are not opened.

What is computed, as SpeechBrain 0.5 and 1.0 do it for one file: samples normalised by ``layer_norm`` where the base
model's feature extractor says ``do_normalize``; wav2vec 2.0 without an attention mask; with ``output_norm`` another
``layer_norm``, over all frames and channels; the mean over frames; one linear layer. SpeechBrain adds random numbers of
1e-5 to 9e-5 to the mean; they are left out.
"""

import ast
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from torch import Tensor, nn

from sertune.data.labels import canonical
from sertune.errors import SertuneError
from sertune.model.features import Features
from sertune.model.loading import UNUSED, check_all, downloaded, hub_answers, read_weights

SETTINGS: Final = "hyperparams.yaml"
ENCODER: Final = "wav2vec2.ckpt"
HEAD: Final = "model.ckpt"
LABELS: Final = ("label_encoder.txt", "label_encoder.ckpt")
"""The second is what SpeechBrain calls its own copy of the first."""
CONFIG, EXTRACTOR = "config.json", "preprocessor_config.json"

PREFIX: Final = "model."
"""Of the encoder's weights; the rest of their names are those of transformers."""
WEIGHT_NORM: Final = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
"""How older torch called the parts of a normalised weight, and how it calls them now."""
WAVE_NORM_EPS: Final = 1e-5
"""What torch's ``layer_norm`` adds to the variance of the samples; transformers adds 1e-7."""

KERNELS: Final = (10, 3, 3, 3, 3, 2, 2)
STRIDES: Final = (5, 2, 2, 2, 2, 2, 2)
"""Of the convolutions of every published wav2vec 2.0."""
ATTENTION_HEADS: Final = {768: 12, 1024: 16, 1280: 16, 1920: 16}
"""By width: base, large, XLS-R 1B and 2B."""

EXPECTED: Final = f"expected the layout of SpeechBrain's emotion-recognition-wav2vec2-IEMOCAP: {SETTINGS}, {ENCODER}"
ENCODER_OPTIONS: Final = (
    "source", "save_path", "output_norm", "freeze", "freeze_feature_extractor", "apply_spec_augment",
    "output_all_hiddens", "normalize_wav", "pretrain",
)  # fmt: skip


@dataclass(frozen=True)
class Tagged:
    """A value of the YAML with a tag of its own, which is not followed.

    Attributes:
        tag: without the exclamation mark, e.g. ``new:speechbrain.nnet.linear.Linear``.
        value: text, list or mapping.
    """

    tag: str
    value: Any


class _Inert(yaml.SafeLoader):
    """Plain YAML; values with a tag of their own become `Tagged`. Tags that name Python objects are an error."""

    def tagged(self, tag: str, node: yaml.Node) -> Tagged:
        if isinstance(node, yaml.MappingNode):
            return Tagged(tag, self.construct_mapping(node, deep=True))
        if isinstance(node, yaml.SequenceNode):
            return Tagged(tag, self.construct_sequence(node, deep=True))
        assert isinstance(node, yaml.ScalarNode)
        return Tagged(tag, self.construct_scalar(node))


_Inert.add_multi_constructor("!", _Inert.tagged)


@dataclass(frozen=True)
class Classifier:
    """The last layer.

    Attributes:
        labels: canonical, in the order of the outputs.
        weight: (labels, width).
        bias: (labels,).
    """

    labels: tuple[str, ...]
    weight: Tensor
    bias: Tensor


class SpeechBrainModel:
    """One model in SpeechBrain's layout.

    Args:
        name: as the user gave it.
        folder: where its files are.
        hub_is_away: for a model on the hub, whether only what was downloaded before can be had; None for a folder.

    Raises:
        SertuneError: ``hyperparams.yaml`` is missing or can't be read.
    """

    def __init__(self, name: str, folder: Path, hub_is_away: bool | None = None) -> None:
        self.name = name
        self._folder = folder
        self._hub_is_away = hub_is_away
        self._settings = _read_settings(self._file(SETTINGS), self._where(SETTINGS))

    # -- files ---------------------------------------------------------------------------------------------------

    def _where(self, file: str) -> str:
        return f"{self.name.rstrip('/')}/{file}"

    def _find(self, file: str) -> Path | None:
        if self._hub_is_away is None:
            path = self._folder / file
            return path if path.is_file() else None
        # the folder of a download is named by its commit: all files are of the same one
        return downloaded(self.name, file, self._hub_is_away, self._folder.name)

    def _file(self, *names: str) -> Path:
        """The first of ``names`` that is there."""
        found = next((path for name in names if (path := self._find(name)) is not None), None)
        if found is not None:
            return found
        if self._hub_is_away:
            raise SertuneError(f"{self.name}: {names[0]} was not downloaded before, and the model hub can't be reached")
        raise SertuneError(f"{self.name}: has no {names[0]}; {EXPECTED}, and as a model {HEAD}, {LABELS[0]}")

    # -- settings ------------------------------------------------------------------------------------------------

    def _plain(self, value: Any) -> Any:
        """A value, or what a reference to one stands for."""
        for _ in range(len(self._settings) + 1):  # a chain of references can't be longer, unless it is a ring
            if not isinstance(value, Tagged) or value.tag != "ref":
                return value
            name = re.fullmatch(r"\s*<(\w+)>\s*", str(value.value))
            if name is None or name[1] not in self._settings:
                break
            value = self._settings[name[1]]
        raise SertuneError(f"{self._where(SETTINGS)}: the reference {value.value} leads to no value")

    def _block(self, key: str, classes: tuple[str, ...], known: tuple[str, ...]) -> dict[str, Any]:
        """The options of one object, whose class and options are as expected."""
        found = self._settings.get(key)
        name = found.tag.removeprefix("new:") if isinstance(found, Tagged) and found.tag.startswith("new:") else ""
        if name.rpartition(".")[2] not in classes:
            what = f"is {name}" if name else "is missing" if found is None else "is no !new: object"
            raise SertuneError(f"{self._where(SETTINGS)}: {key} {what}; expected !new: ... {classes[0]}")
        assert isinstance(found, Tagged)
        options = found.value or {}
        if not isinstance(options, dict):
            raise SertuneError(f"{self._where(SETTINGS)}: {key}: expected options by name, found {options!r:.60}")
        if strange := [option for option in options if option not in known]:
            raise SertuneError(
                f"{self._where(SETTINGS)}: {key} has the option {strange[0]}, which sertune does not know "
                f"(known: {', '.join(known)})"
            )
        return options

    def _flag(self, key: str, options: dict[str, Any], name: str, default: bool) -> bool:
        value = self._plain(options.get(name, default))
        if not isinstance(value, bool):
            raise SertuneError(f"{self._where(SETTINGS)}: {key}.{name}: expected True or False, found {value!r:.60}")
        return value

    def _count(self, key: str, value: Any) -> int:
        value = self._plain(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SertuneError(f"{self._where(SETTINGS)}: {key}: expected a whole number above 0, found {value!r:.60}")
        return value

    # -- encoder -------------------------------------------------------------------------------------------------

    def encoder(self) -> tuple[nn.Module, Features]:
        """The wav2vec 2.0 model with the checkpoint's weights, in float32, and what prepares its input.

        The architecture is that of a wav2vec 2.0 ``config.json`` in the folder, or that of the base model that
        ``hyperparams.yaml`` names, where it was downloaded before or the hub answers, or follows from the shapes of the
        weights.

        Raises:
            SertuneError: a file is missing or damaged, weights do not fit, or the settings ask for something else.
        """
        from transformers import Wav2Vec2Model

        options, weights = self._options, self._encoder_weights()
        known = self._own_config() or self._base.config
        config = known or self._derived_config(weights)
        if config.model_type != "wav2vec2":
            source = self._plain(options.get("source"))
            raise SertuneError(
                f"{self._where(SETTINGS)}: its base {source} is a {config.model_type}, expected wav2vec2"
            )
        config.output_norm = self._flag("wav2vec2", options, "output_norm", False)
        try:
            with torch.device("meta"):  # no time is spent on random weights
                model: nn.Module = Wav2Vec2Model(config)
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SertuneError(
                f"{self._where(CONFIG)}: describes no wav2vec 2.0 that can be built ({reason})"
            ) from None
        unused = {PREFIX + name: torch.zeros(config.hidden_size) for name in UNUSED}
        weights = {**{name: zeros for name, zeros in unused.items() if name not in weights}, **weights}
        shapes = {PREFIX + name: tensor.shape for name, tensor in model.state_dict().items()}
        check_all(self._where(ENCODER), shapes, weights)
        state = {name.removeprefix(PREFIX): tensor.float() for name, tensor in weights.items()}
        model.load_state_dict(state, assign=True)
        return model.eval(), self._features(derived=known is None)

    @cached_property
    def _options(self) -> dict[str, Any]:
        options = self._block("wav2vec2", ("Wav2Vec2", "HuggingFaceWav2Vec2"), ENCODER_OPTIONS)
        if self._flag("wav2vec2", options, "output_all_hiddens", False):
            raise SertuneError(f"{self._where(SETTINGS)}: wav2vec2.output_all_hiddens: expected False, the last layer")
        return options

    def _encoder_weights(self) -> dict[str, Tensor]:
        """Weights by their names in the file, with the newer names of weight norm."""
        found = read_weights(self._file(ENCODER), self._where(ENCODER))
        modern = {name: name for name in found}
        for name in found:
            for old, new in WEIGHT_NORM.items():
                if name.endswith(old) and name.removesuffix(old) + new not in found:
                    modern[name] = name.removesuffix(old) + new
        return {modern[name]: tensor for name, tensor in found.items()}

    def _own_config(self) -> Any:
        """The configuration in the folder; None where it has none, or SpeechBrain's own, which tells nothing."""
        from transformers import Wav2Vec2Config

        file = self._find(CONFIG)
        if file is None:
            return None
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return Wav2Vec2Config.from_dict(values) if values.get("model_type") == "wav2vec2" else None
        except (ValueError, TypeError, AttributeError) as error:
            raise SertuneError(f"{self._where(CONFIG)}: damaged ({' '.join(str(error).split())[:200]})") from None

    @cached_property
    def _base(self) -> "_Base":
        source = self._plain(self._options.get("source"))
        return _Base.look_up(source) if isinstance(source, str) and source else _Base()

    def _derived_config(self, weights: dict[str, Tensor]) -> Any:
        """The configuration that shapes tell, of the published sizes.

        Published models with group norm in front normalise after each layer, those with layer norm before it. Dropout
        is that of wav2vec2-base.
        """
        from transformers import Wav2Vec2Config

        where = self._where(ENCODER)

        def shape(name: str, rank: int) -> tuple[int, ...]:
            if PREFIX + name not in weights:
                raise SertuneError(f"{where}: misses the weights {PREFIX + name}; the model would be partly random")
            found = tuple(weights[PREFIX + name].shape)
            if len(found) != rank or 0 in found:
                raise SertuneError(f"{where}: {PREFIX + name} has shape {found}, expected {rank} dimensions")
            return found

        front, layers = "feature_extractor.conv_layers", "encoder.layers"
        convolutions = [shape(f"{front}.{number}.conv.weight", 3) for number in range(self._counted(weights, front))]
        kernels = tuple(size[2] for size in convolutions)
        positions = shape("encoder.pos_conv_embed.conv.parametrizations.weight.original1", 3)
        width = positions[0]
        if kernels != KERNELS or width not in ATTENTION_HEADS or width % positions[1]:
            raise SertuneError(
                f"{where}: no published size of wav2vec 2.0 (width {width}, convolutions of {list(kernels)}), so that "
                f"its weights don't tell all of it; put the {CONFIG} of its base model beside it"
            )
        layered = f"{PREFIX}{front}.1.layer_norm.weight" in weights
        return Wav2Vec2Config(
            hidden_size=width,
            num_hidden_layers=self._counted(weights, layers),
            num_attention_heads=ATTENTION_HEADS[width],
            intermediate_size=shape(f"{layers}.0.feed_forward.intermediate_dense.weight", 2)[0],
            conv_dim=[size[0] for size in convolutions],
            conv_kernel=list(KERNELS),
            conv_stride=list(STRIDES),
            conv_bias=f"{PREFIX}{front}.0.conv.bias" in weights,
            num_conv_pos_embeddings=positions[2],
            num_conv_pos_embedding_groups=width // positions[1],
            feat_extract_norm="layer" if layered else "group",
            do_stable_layer_norm=layered,
            hidden_dropout=0.1,
            attention_dropout=0.1,
            activation_dropout=0.0,
        )

    @staticmethod
    def _counted(weights: dict[str, Tensor], path: str) -> int:
        """How many numbered modules the weights of a list have."""
        pattern = re.compile(re.escape(PREFIX + path) + r"\.(\d+)\.")
        return len({found[1] for name in weights if (found := pattern.match(name))})

    def _features(self, derived: bool) -> Features:
        from transformers import Wav2Vec2FeatureExtractor

        given = self._own_extractor() or self._base.extractor
        prepared = given or Wav2Vec2FeatureExtractor(do_normalize=True)
        normalise = self._flag(
            "wav2vec2", self._options, "normalize_wav", bool(getattr(prepared, "do_normalize", True))
        )
        rate = self._count("sample_rate", self._settings.get("sample_rate", prepared.sampling_rate))
        extractor = Wav2Vec2FeatureExtractor(
            sampling_rate=rate, do_normalize=normalise, **({"wave_norm_eps": WAVE_NORM_EPS} if normalise else {})
        )
        guessed = (["its architecture"] if derived else []) + ([] if given else ["normalised samples"])
        said = f"encoder {self.name}: its base model can't be looked up: assumed {' and '.join(guessed)} as published"
        return Features(extractor, said if guessed else "")

    def _own_extractor(self) -> Any:
        from transformers import Wav2Vec2FeatureExtractor

        file = self._find(EXTRACTOR)
        if file is None:
            return None
        try:
            return Wav2Vec2FeatureExtractor.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError) as error:
            raise SertuneError(f"{self._where(EXTRACTOR)}: damaged ({' '.join(str(error).split())[:200]})") from None

    # -- head ----------------------------------------------------------------------------------------------------

    def classifier(self) -> Classifier:
        """The last layer and its labels.

        Raises:
            SertuneError: a file is missing or damaged, weights or labels do not fit, or vectors are pooled otherwise.
        """
        pool = self._block("avg_pool", ("StatisticsPooling",), ("return_mean", "return_std"))
        means = self._flag("avg_pool", pool, "return_mean", True)
        if not means or self._flag("avg_pool", pool, "return_std", True):
            raise SertuneError(f"{self._where(SETTINGS)}: avg_pool: expected the mean alone (return_std: False)")
        options = self._block("output_mlp", ("Linear",), ("input_size", "n_neurons", "bias"))
        width = self._count("output_mlp.input_size", options.get("input_size"))
        outputs = self._count("output_mlp.n_neurons", options.get("n_neurons"))
        shapes: dict[str, tuple[int, ...]] = {"0.w.weight": (outputs, width)}
        if self._flag("output_mlp", options, "bias", True):
            shapes["0.w.bias"] = (outputs,)
        weights = read_weights(self._file(HEAD), self._where(HEAD))
        check_all(self._where(HEAD), shapes, weights)
        file = self._file(*LABELS)
        labels = read_labels(file, self._where(file.name))
        if len(labels) != outputs:
            raise SertuneError(f"{self._where(file.name)}: has {len(labels)} labels, output_mlp has {outputs} outputs")
        bias = weights.get("0.w.bias", torch.zeros(outputs))
        return Classifier(labels, weights["0.w.weight"].float(), bias.float())


@dataclass(frozen=True)
class _Base:
    """Configuration and feature extractor of the model that was fine-tuned, where they can be had."""

    config: Any = None
    extractor: Any = None

    @staticmethod
    def look_up(source: str) -> "_Base":
        from transformers import AutoConfig, AutoFeatureExtractor

        def read(kind: Any, local: bool) -> Any:
            try:
                return kind.from_pretrained(source, trust_remote_code=False, local_files_only=local)
            except Exception:  # it need not be there: the folder is enough
                return None

        try:
            here = Path(source).exists()
        except OSError:  # too long for a name
            return _Base()
        local = here or not hub_answers(source)
        return _Base(read(AutoConfig, local), read(AutoFeatureExtractor, local))


def find_speechbrain(name: str, local: bool) -> SpeechBrainModel | None:
    """The model of that name, if it has SpeechBrain's layout.

    Args:
        name: a folder, or a name on the hub.
        local: whether to look only in the folder, or in what was downloaded before.

    Raises:
        SertuneError: it has the layout, and its settings can't be read.
    """
    folder = Path(name)
    if folder.exists():
        others = _names_model(folder / CONFIG) and any([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        theirs = (folder / ENCODER).is_file() or ((folder / SETTINGS).is_file() and not others)
        return SpeechBrainModel(name, folder) if theirs else None
    settings = downloaded(name, SETTINGS, local)
    if settings is None:
        return None
    config = downloaded(name, CONFIG, local, settings.parent.name)
    if config is not None and _names_model(config) and downloaded(name, ENCODER, local, settings.parent.name) is None:
        return None  # a transformers model with settings of something else beside
    return SpeechBrainModel(name, settings.parent, local)


def _names_model(config: Path) -> bool:
    """Whether a ``config.json`` is that of a transformers model; SpeechBrain's names no model."""
    try:
        return "model_type" in json.loads(config.read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError):
        return False


def _read_settings(file: Path, where: str) -> dict[str, Any]:
    try:
        found = yaml.load(file.read_bytes(), Loader=_Inert)
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        raise SertuneError(f"{where}: not valid YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(found, dict):
        raise SertuneError(f"{where}: expected keys and values, found {type(found).__name__}")
    return found


def read_labels(file: Path, where: str) -> tuple[str, ...]:
    """Canonical labels in the order of the outputs, from a file that SpeechBrain's ``CategoricalEncoder`` wrote.

    Lines are ``'neu' => 0``; a line of ``=`` and the encoder's own settings follow.

    Args:
        file: the text.
        where: its name in messages.

    Raises:
        SertuneError: a line that is none of these, no end, positions that are not 0 to N - 1, a label twice.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise SertuneError(f"{where}: no text in UTF-8; expected lines like 'neu' => 0") from None
    end = next((number for number, line in enumerate(lines) if line and not line.strip("=")), None)
    if end is None:
        raise SertuneError(f"{where}: cut off: expected a line of = after the labels")
    places: dict[int, str] = {}
    for number, line in enumerate(lines[:end], start=1):
        quoted, arrow, place = line.rpartition(" => ")
        try:
            label = ast.literal_eval(quoted.strip())
        except (MemoryError, RecursionError, SyntaxError, ValueError):
            label = None
        if not arrow or not isinstance(label, str) or not place.strip().isdecimal():
            raise SertuneError(f"{where}, line {number}: expected a line like 'neu' => 0, found {line[:60]!r}")
        if int(place) in places:
            raise SertuneError(f"{where}, line {number}: position {int(place)} is taken twice")
        places[int(place)] = canonical(label)
    if sorted(places) != list(range(len(places))) or not places:
        raise SertuneError(f"{where}: expected the positions 0 to {max(len(places) - 1, 0)}, found {sorted(places)}")
    labels = tuple(places[place] for place in range(len(places)))
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise SertuneError(f"{where}: has {twice[0]} twice, in one spelling or two")
    return labels
