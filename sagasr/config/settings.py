"""Every setting that can change a number, as strict, frozen models. Loads without torch.

A configuration file is a tree of these keys; defaults are the values of the SAGA-SR paper and its released code
(arXiv 2509.24924), a file states what differs. Settings that cannot change a result (workers, devices, logging) are
not here but in ``Runtime``, which is never fingerprinted.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sagasr.constants import NYQUIST as NYQUIST
from sagasr.constants import SAMPLE_RATE as SAMPLE_RATE
from sagasr.io.errors import ConfigError, did_you_mean, nearest
from sagasr.io.files import LOOP, odd_value, on_disk

GET_STABLE_AUDIO = (
    "get stabilityai/stable-audio-open-1.0 from Hugging Face (accept its licence there, then hf download with "
    "--local-dir FOLDER)"
)

SHIPPED_RECORDINGS = "shipped"  # in `data`, in place of a path
DATA_KEYS = ("data.train", "data.val")
FILE_KEYS = ("codec.checkpoint", "codec.config", "model.checkpoint")
MODEL_KEYS = ("conditions.text.encoder.model", "validation.distance.model")

# width, layers, heads and condition width of the diffusion transformer; what the factor `size` patches
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 128, "depth": 2, "num_heads": 2, "cond_dim": 128},
    "small": {"embed_dim": 512, "depth": 8, "num_heads": 8, "cond_dim": 512},
    "medium": {"embed_dim": 768, "depth": 16, "num_heads": 12, "cond_dim": 768},
    "full": {"embed_dim": 1536, "depth": 24, "num_heads": 24, "cond_dim": 768},
}


class Strict(BaseModel):
    """Base of all file formats: unknown keys, wrong types and NaN are errors; values never change once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)


# words of a configuration that name a part of ours, by family; any other is a user's own (sagasr.plugins.parts)
PARTS = {
    "metric": (),
    "embedder": ("spectral", "clap", "off"),
    "sampler": ("euler",),
    "codec": (),
    "conditioner": (),
}
PART_KEYS = (
    "validation.metrics",
    "validation.distance.embedder",
    "evaluation.sampler.solver",
    "codec.part",
    "conditions.own",
)


def known_part(family: str, part: str) -> str:
    """Return ``part`` where it is one of ours, may be a class of a user's own, or is installed. Raises ValueError."""
    if part in PARTS[family] or ":" in part:
        return part
    installed = {point.name for point in entry_points(group=f"sagasr.{family}s")}
    if part not in installed:
        hint = nearest(part, installed | set(PARTS[family]))
        ours = f"none of {', '.join(PARTS[family])}, " if PARTS[family] else ""
        raise ValueError(f"{part!r} is {ours}not installed, and not FILE.py:CLASS{hint}")
    return part


class Data(Strict):
    """Manifests (CSV, Parquet or JSON lines), or folders. If one says which rows train and which validate, only those
    count.
    """

    train: str
    val: str
    policy: Literal["strict", "quarantine"] = Field(
        "strict", description="recordings that cannot be used: strict stops and names them, quarantine leaves them out"
    )


class Audio(Strict):
    channels: Literal[1, 2] = 1
    segment: int = Field(65_536, ge=2_048, description="samples of one training example (paper: 262,144)")


class Wavelet(Strict):
    """Wavelet packets (stable-audio-tools): exact, channels * 2**levels latents at 44,100 / 2**levels Hz."""

    kind: Literal["wavelet"]
    levels: int = Field(6, ge=1, le=10)
    wavelet: Literal["bior2.2", "bior2.4", "bior2.6", "bior2.8", "bior4.4", "bior6.8"] = "bior4.4"
    companding: float = Field(0.5, gt=0, le=1, description="latents are sign(x) |x|**companding; 1 is linear")


class Pqmf(Strict):
    """Pseudo-quadrature mirror filter bank (stable-audio-tools): latents ordered by frequency, about 50 dB exact."""

    kind: Literal["pqmf"]
    bands: Literal[8, 16, 32, 64, 128] = 64
    attenuation: int = Field(100, ge=40, le=140, description="stop-band attenuation in dB")
    companding: float = Field(0.5, gt=0, le=1)


class Patched(Strict):
    """Samples folded into channels (stable-audio-tools): exact and free, no frequency meaning."""

    kind: Literal["patched"]
    patch: Literal[16, 32, 64, 128, 256] = 64
    companding: float = Field(0.5, gt=0, le=1)


class StableAudio(Strict):
    """The Oobleck autoencoder of Stable Audio Open: 64 latents at 21.5 Hz, in ``checkpoint``, shaped by ``config``."""

    kind: Literal["stable-audio"]
    checkpoint: str
    config: str = Field(description="the model_config.json or vae_model_config.json published with the checkpoint")


class OwnCodec(Strict):
    """A class of the user's own. What a plan must know of it is stated here, and checked before anything starts."""

    kind: Literal["own"]
    part: str = Field(description="FILE.py:CLASS, MODULE:CLASS, or the name of an entry point")
    ratio: Literal[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048] = Field(description="samples per latent frame")
    latent_channels: int = Field(ge=1, description="latents per frame")
    linear: bool = Field(
        True, description="twice the audio has twice the latents; false (most neural codecs): audio keeps its level"
    )
    companding: float = Field(1.0, gt=0, le=1)

    @field_validator("part")
    @classmethod
    def _is_known(cls, part: str) -> str:
        return known_part("codec", part)

    @model_validator(mode="after")
    def _companding_scales(self) -> Self:
        if not self.linear and self.companding != 1:
            raise ValueError("companding needs a linear codec; leave it out, or set linear: true")
        return self


Codec = Annotated[Wavelet | Pqmf | Patched | StableAudio | OwnCodec, Field(discriminator="kind")]

FilterFamily = Literal["chebyshev1", "butterworth", "bessel", "elliptic"]


class Degradation(Strict):
    """How low is made from high (paper section 3.1): zero-phase low-pass, then down to 2 x cutoff and up again."""

    filters: tuple[FilterFamily, ...] = ("chebyshev1", "butterworth", "bessel", "elliptic")
    order: tuple[int, int] = (2, 10)
    cutoff_hz: tuple[float, float] = (2_000.0, 16_000.0)
    rolloff_cap: float = Field(0.94, gt=0, le=1, description="a cutoff never exceeds this share of the clip's roll-off")
    variants: int = Field(4, ge=1, le=64, description="different low versions made of each training recording")

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name, (low, high), (least, most) in (
            ("order", self.order, (1, 20)),
            ("cutoff_hz", self.cutoff_hz, (500, NYQUIST)),
        ):
            if not least <= low <= high <= most:
                raise ValueError(f"{name} [{low:g}, {high:g}] must ascend within [{least:g}, {most:g}]")
        if not self.filters:
            raise ValueError("filters is empty; name at least one")
        return self


class Words(Strict):
    """One learned vector per word of the training captions; needs no download. Unknown words count as absent."""

    kind: Literal["words"]
    max_tokens: int = Field(16, ge=1, le=128)


class T5(Strict):
    """A frozen T5 encoder: a folder, or a model name that transformers finds in its cache."""

    kind: Literal["t5"]
    model: str = "t5-base"
    max_tokens: int = Field(128, ge=1, le=512)


class Text(Strict):
    source: Literal["off", "transcript", "caption"] = "caption"
    encoder: Annotated[Words | T5, Field(discriminator="kind")] = T5(kind="t5")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of training examples whose cross-attention is nulled")


class LowLatents(Strict):
    dropout: float = Field(0.1, ge=0, lt=1, description="share of training examples whose low latents are nulled")
    # Not called null: as a key, YAML reads that word as no word at all.
    empty: Literal["zero", "minus5"] = Field("minus5", description="what stands for no low latents: all 0 or all -5")


class Conditions(Strict):
    text: Text = Text()
    low: LowLatents = LowLatents()
    rolloff: Literal["off", "on"] = "on"
    rolloff_route: Literal["both", "cross", "global", "prepend"] = Field(
        "both",
        description="where roll-off enters: as two tokens of the cross-attention, in the global vector beside the "
        "time, or both (paper); prepend: two tokens and, with the time, a prepended one (seed plan)",
    )
    rolloff_scale: Literal["nyquist", "released"] = Field(
        "nyquist",
        description="1 is 22,050 Hz; released: as the authors' code counts, a bin lower and over 1,025 bins",
    )
    seconds: Literal["off", "on"] = Field("off", description="seconds_start and seconds_total as global conditions")
    own: tuple[str, ...] = Field(
        (), description="of the user's own, named as validation.metrics: each says what one more token holds"
    )

    @field_validator("own")
    @classmethod
    def _are_known(cls, own: tuple[str, ...]) -> tuple[str, ...]:
        if len({Path(part).name for part in own}) < len(own):
            raise ValueError("names a class twice; remove one")
        return tuple(known_part("conditioner", part) for part in own)

    @property
    def cross_dropout(self) -> float:
        """Share of training examples whose cross-attention is nulled: none where only roll-off stands in it."""
        return self.text.dropout if self.text.source != "off" or self.own else 0.0


class Model(Strict):
    """The diffusion transformer of stable-audio-tools; every other width follows from these."""

    embed_dim: int = Field(512, ge=8)
    depth: int = Field(8, ge=1)
    num_heads: int = Field(8, ge=1)
    cond_dim: int = Field(512, ge=8, description="width of text and roll-off tokens")
    time_route: Literal["prepend", "adaLN"] = Field("prepend", description="how the time + global vector enters")
    latents: Literal["normalised", "raw"] = Field(
        "normalised", description="per channel zero mean and unit variance, or as the codec gives them (released code)"
    )
    preconditioning: Literal["off", "level"] = Field(
        "off", description="level: the network corrects the best linear guess for channels of their typical level"
    )
    init: Literal["scratch", "pretrained"] = Field(
        "scratch", description="pretrained: starts as the transformer in checkpoint, its input widened with zeros"
    )
    checkpoint: str | None = Field(None, description="Stable Audio Open's weights, .safetensors or .ckpt")

    @model_validator(mode="after")
    def _starts_as_published(self) -> Self:
        if self.init == "pretrained":
            if not self.checkpoint:
                raise ValueError(
                    f"init pretrained needs a checkpoint: {GET_STABLE_AUDIO} and name its model.safetensors in "
                    "model.checkpoint"
                )
            if self.latents != "raw" or self.preconditioning != "off":
                raise ValueError(
                    "init pretrained: the checkpoint has learned from raw latents without preconditioning; "
                    "set latents: raw and preconditioning: off"
                )
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}")
        head = self.embed_dim // self.num_heads
        if head % 2 or head < 32:
            raise ValueError(
                f"embed_dim {self.embed_dim} / num_heads {self.num_heads} = {head} wide heads; "
                "the rotary embedding needs an even width of at least 32"
            )
        if self.cond_dim % head or self.num_heads % (self.cond_dim // head):
            raise ValueError(
                f"cond_dim {self.cond_dim} gives {self.cond_dim / head:g} key/value heads of {head}, "
                f"which must divide num_heads {self.num_heads}"
            )
        return self


class Ema(Strict):
    beta: float = Field(0.9999, ge=0, lt=1)
    power: float = Field(0.75, gt=0, le=1, description="decay = min(beta, 1 - (1 + step)**-power)")


class InverseLR(Strict):
    """Multiplier (1 + step / gamma)**-power * (1 - warmup**(step + 1)) (stable-audio-tools; paper section 4.2)."""

    gamma: float = Field(1e6, gt=0)
    power: float = Field(0.5, ge=0)
    warmup: float = Field(0.99, ge=0, lt=1)


Beta = Annotated[float, Field(ge=0, lt=1)]


class Training(Strict):
    steps: int = Field(26_000, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    schedule: InverseLR = InverseLR()
    cooldown: float = Field(0.0, ge=0, le=1, description="share of the steps at the end over which the rate falls to 0")
    clip_norm: float = Field(0.0, ge=0, description="largest gradient norm; 0 does not clip (paper)")
    time_sampler: Literal["uniform", "logit-normal"] = "logit-normal"
    ema: Ema = Ema()
    precision: Literal["32-true", "bf16-mixed"] = Field(
        "32-true", description="of a training step; on a GPU 32-true takes matrix products in TF32"
    )


class Distance(Strict):
    """The embeddings of which the distribution distance (FD) between predictions and high clips is taken."""

    embedder: str = Field(
        "spectral",
        description="spectral: band levels, needs no weights; clap: the audio tower of model; off; or one of your own, "
        "as validation.metrics",
    )
    model: str = Field("laion/clap-htsat-unfused", description="for clap: a folder, or a name in transformers' cache")

    @field_validator("embedder")
    @classmethod
    def _is_known(cls, embedder: str) -> str:
        return known_part("embedder", embedder)


class Validation(Strict):
    """What is scored, and when; frozen, so that a score is a function of the weights alone."""

    every: int = Field(1_000, ge=1, description="training steps between two validations")
    clips: int = Field(64, ge=1, description="at most so many, spread evenly over the domains")
    segment: int = Field(65_536, ge=8_192, description="samples scored of each recording, its loudest stretch")
    filter: FilterFamily = "chebyshev1"
    order: int = Field(8, ge=1, le=20)
    cutoff_hz: float = Field(
        4_000.0, ge=500, le=NYQUIST, description="capped by degradation.rolloff_cap as in training"
    )
    distance: Distance = Distance()
    metrics: tuple[str, ...] = Field(
        (), description="of your own, beside ours: FILE.py:CLASS, MODULE:CLASS, or the name of an entry point"
    )

    @field_validator("metrics")
    @classmethod
    def _are_known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known_part("metric", metric) for metric in metrics)


class Guidance(Strict):
    """Strengths s_a and s_t (paper eq. 5). A branch whose null the model never saw in training is not guided."""

    audio: float = Field(1.4, ge=0)
    text: float = Field(1.2, ge=0)


class Sampler(Strict):
    steps: int = Field(100, ge=1, le=1_000)
    schedule: Literal["linear", "linear-quadratic"] = "linear-quadratic"
    guidance: Guidance = Guidance()
    solver: str = Field("euler", description="how steps are taken: euler, or one of your own, as validation.metrics")

    @field_validator("solver")
    @classmethod
    def _is_known(cls, solver: str) -> str:
        return known_part("sampler", solver)


class Evaluation(Strict):
    """How a trained model is used: the eval stage. Nothing here touches training."""

    sampler: Sampler = Sampler()
    weights: Literal["ema", "raw"] = "ema"
    lfr: Literal["off", "hard", "crossfade"] = Field("off", description="low-frequency replacement after decoding")
    lfr_ratio: Literal["off", "on"] = Field(
        "off",
        description="on: low is brought to the generated level, within 0.8 to 1.2, as released; off: unchanged",
    )
    rolloff_target: Literal["oracle", "fixed", "estimated"] = Field(
        "oracle", description="target roll-off: the high clip's own, a constant, or predicted from the low clip"
    )
    rolloff_fixed: float = Field(0.9, ge=0, le=1, description="the constant, as a share of 22,050 Hz")


def sampling_of(evaluation: Evaluation) -> Evaluation:
    """Return the setting with everything at its default that acts only after sampling: equal ones share a sampling."""
    return evaluation.model_copy(update={"lfr": "off", "lfr_ratio": "off"})


class Config(Strict):
    """One training with its evaluation: everything that can change a number."""

    data: Data
    seed: int = Field(0, ge=0)
    audio: Audio = Audio()
    codec: Codec
    degradation: Degradation = Degradation()
    conditions: Conditions = Conditions()
    model: Model = Model()
    training: Training = Training()
    validation: Validation = Validation()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        ratio = downsampling_ratio(self.codec)
        for key, segment in (("audio", self.audio.segment), ("validation", self.validation.segment)):
            if segment % ratio:
                raise ValueError(f"{key}.segment {segment} is not a multiple of the codec's {ratio} samples per frame")
        if self.model.init == "pretrained" and not isinstance(self.codec, StableAudio):
            raise ValueError(f"model.init pretrained knows the latents of codec stable-audio, not of {self.codec.kind}")
        return self


class Runtime(Strict):
    """Where and how a training runs; changes nothing that is measured, so it never enters a fingerprint."""

    workers: int = Field(1, ge=1, description="data-parallel processes")
    sharded: bool = Field(False, description="each worker keeps its share of the training's state, not all of it")
    gpus_per_worker: float = Field(0.0, ge=0)
    cpus_per_worker: float = Field(1.0, gt=0)
    checkpoint_every: int = Field(500, ge=1, description="training steps between two checkpoints")
    hang_seconds: float = Field(
        1_800.0, gt=0, description="a worker that shows no sign of life for so long is replaced"
    )
    notice_seconds: float = Field(25.0, ge=0, description="a preempted machine's time between SIGTERM and its end")

    @field_validator("gpus_per_worker")
    @classmethod
    def _one_gpu_at_most(cls, share: float) -> float:
        if share > 1:
            raise ValueError("one worker uses one GPU, or a part of it; give 1, and more workers for more GPUs")
        return share

    @model_validator(mode="after")
    def _workers_meet_on_no_gpu(self) -> Self:
        if self.workers > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"each of {self.workers} workers needs a GPU of its own, as NCCL refuses two on one; "
                "give gpus_per_worker: 1, or workers: 1"
            )
        return self

    @model_validator(mode="after")
    def _shards_are_several(self) -> Self:
        if self.sharded and self.workers == 1:
            raise ValueError("sharded divides a training's state among workers; give it 2 or more, or leave it out")
        return self


def downsampling_ratio(codec: Codec) -> int:
    """Return the samples per latent frame."""
    match codec:
        case Wavelet(levels=levels):
            return int(2**levels)
        case Pqmf(bands=bands):
            return int(bands)
        case Patched(patch=patch):
            return int(patch)
        case StableAudio():
            return 2_048
        case OwnCodec(ratio=ratio):
            return int(ratio)


def latent_channels(codec: Codec, channels: int) -> int:
    """Return how many latents each frame of audio of 1 or 2 channels has."""
    match codec:
        case StableAudio():
            return 64
        case OwnCodec(latent_channels=stated):
            return stated
        case _:
            return channels * downsampling_ratio(codec)


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], tree: Mapping[str, Any], source: str) -> M:
    """Return ``tree`` as ``model``. Raises ConfigError: one line per fault, each with file, key and remedy."""
    try:
        # Through JSON: strict types, and lists become tuples.
        return model.model_validate_json(json.dumps(tree, allow_nan=False))
    except ValidationError:
        tree = _with_whole_numbers(tree)  # 1e4 steps are 10000; seldom, so only where something is wrong
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {odd_value(tree) or error}") from error
    try:
        return model.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {fault}" for fault in _faults(model, tree, error))) from error


def _with_whole_numbers(tree: Any) -> Any:
    """Return a tree with numbers such as 1e4 as the integers that they are; fractions want no other form of them."""
    if isinstance(tree, Mapping):
        return {key: _with_whole_numbers(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_with_whole_numbers(value) for value in tree]
    whole = isinstance(tree, float) and tree.is_integer() and abs(tree) < 2**53
    return int(tree) if whole else tree


def patch(tree: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of ``tree`` with dotted paths set in turn, e.g. ``{"evaluation.sampler.steps": 25}``.

    Paths and nested sub-trees may be mixed; a mapping value is merged into what stands there, unless it names another
    ``kind``, which replaces it.
    """
    result: dict[str, Any] = json.loads(json.dumps(tree))
    for path, value in (item for each in changes for item in each.items()):
        *parents, leaf = path.split(".")
        node = result
        for key in parents:
            child = node.get(key)
            if not isinstance(child, dict):
                child = node[key] = {}
            node = child
        old = node.get(leaf)
        if isinstance(value, Mapping):
            keep = old if isinstance(old, dict) and value.get("kind", old.get("kind")) == old.get("kind") else {}
            node[leaf] = patch(keep, value)
        else:
            node[leaf] = json.loads(json.dumps(value))
    return result


def located(tree: Mapping[str, Any], folder: Path, prefix: str = "") -> dict[str, Any]:
    """Return a configuration tree with the files it names made absolute, taken as relative to ``folder``.

    The word ``shipped`` under ``data`` stands for the recordings that come with sagasr.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        word = "null" if key is None else str(key)  # YAML reads the key null as none; the check of keys then names it
        path = f"{prefix}{word}"
        if isinstance(value, Mapping):
            found[word] = located(value, folder, f"{path}.")
        elif path in PART_KEYS and isinstance(value, list):
            found[word] = [_file(path, one, folder) for one in value]
        else:
            found[word] = _file(path, value, folder)
    return found


def _file(key: str, value: Any, folder: Path) -> Any:
    if key in PART_KEYS and isinstance(value, str) and value.isprintable():
        return _part(key, value, folder)
    if key not in (*DATA_KEYS, *FILE_KEYS, *MODEL_KEYS) or not isinstance(value, str) or not value:
        return value
    if not value.isprintable():
        raise ConfigError(f"{key}: {value!r} is no name of a file; remove what cannot be printed")
    if key in DATA_KEYS and value == SHIPPED_RECORDINGS:
        return str(Path(__file__).parents[1] / "recordings" / "manifest.csv")
    if key in MODEL_KEYS and not os.path.exists(folder / value):
        return value  # the name of a published model
    return str(_absolute(key, folder / value))


def _absolute(key: str, path: Path) -> Path:
    try:
        found = on_disk(path).resolve()
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            raise
        raise ConfigError(f"{key}: {path}: {LOOP}") from error
    if os.path.islink(found):  # since Python 3.13 such a link is left as it is
        raise ConfigError(f"{key}: {path}: {LOOP}")
    return found


def _part(key: str, part: str, folder: Path) -> str:
    """Return a part of a user's own with the file it lies in made absolute; ``my:Class`` is in my.py where that is."""
    module, colon, name = part.rpartition(":")
    file = folder / (module if module.endswith(".py") else f"{module}.py")
    return f"{_absolute(key, file)}:{name}" if colon and (module.endswith(".py") or file.is_file()) else part


def leaves(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a patch as ``{dotted path: value}`` with all sub-trees opened."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{path}.")
        else:
            found[path] = value
    return found


@cache
def setting_paths(model: type[BaseModel] = Config, prefix: str = "") -> tuple[str, ...]:
    """Return the dotted path of every setting that some configuration has, sections opened."""
    found: dict[str, None] = {}
    for name, field in model.model_fields.items():
        inner = [path for one in _models_in(field.annotation) for path in setting_paths(one, f"{prefix}{name}.")]
        found |= dict.fromkeys(inner or [f"{prefix}{name}"])
    return tuple(found)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between the ``leaves`` of two trees, e.g. ``training.steps 600 -> 800``."""

    def shown(value: Any) -> str:
        return "(absent)" if value is None else str(value)

    return [
        f"{key} {shown(then.get(key))} -> {shown(now.get(key))}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]


def train_stage(config: Config) -> dict[str, Any]:
    """Return the part of a configuration that decides the weights: no paths, nothing of the eval stage or the clips.

    Values that stand at their defaults are left out: a key that is new and neutral makes no finished training another.
    """
    scored = {name for name in type(config.validation).model_fields if name != "every"}
    left_out: dict[str, Any] = {"data": True, "evaluation": True, "validation": scored}
    tree = config.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    tree = {section: keys for section, keys in tree.items() if keys != {}}  # it differs in what is left out alone
    return _with_sources(tree, trained_parts(config))


def score_stage(config: Config) -> dict[str, Any]:
    """Return the part of a configuration that decides how given weights are scored; defaults are left out."""
    tree: dict[str, Any] = {
        "evaluation": config.evaluation.model_dump(mode="json", exclude_defaults=True),
        "validation": config.validation.model_dump(mode="json", exclude={"every"}, exclude_defaults=True),
    }
    scored, sampler = config.validation, config.evaluation.sampler
    named = [("embedder", scored.distance.embedder), ("sampler", sampler.solver)]
    own = [(family, part) for family, part in named if part not in PARTS[family]]
    return _with_sources(tree, [*own, *(("metric", part) for part in scored.metrics)])


class Idle(NamedTuple):
    """Keys that do nothing, whatever they say, where ``holds``; ``when`` says it in words."""

    keys: tuple[str, ...]
    when: str
    holds: Callable[[Config], bool]


IDLE = (
    Idle(("evaluation.lfr_ratio",), "evaluation.lfr is off", lambda c: c.evaluation.lfr == "off"),
    Idle(
        ("conditions.rolloff_scale", "evaluation.rolloff_target", "evaluation.rolloff_fixed"),
        "conditions.rolloff is off",
        lambda c: c.conditions.rolloff == "off",
    ),
    Idle(  # prepend has a token of its own for the time, with roll-off or without
        ("conditions.rolloff_route",),
        "conditions.rolloff is off",
        lambda c: c.conditions.rolloff == "off" and c.conditions.rolloff_route != "prepend",
    ),
    Idle(
        ("evaluation.rolloff_fixed",),
        "evaluation.rolloff_target is not fixed",
        lambda c: c.evaluation.rolloff_target != "fixed",
    ),
    Idle(
        ("conditions.text.dropout",),
        "conditions.text.source is off",
        lambda c: c.conditions.text.source == "off" and not c.conditions.own,
    ),
    Idle(  # the number of its slots stays
        ("conditions.text.encoder.model",),
        "conditions.text.source is off",
        lambda c: c.conditions.text.source == "off" and isinstance(c.conditions.text.encoder, T5),
    ),
    Idle(
        ("evaluation.sampler.guidance.text",),
        "no text is ever dropped in training (conditions.text)",
        lambda c: not c.conditions.cross_dropout,
    ),
    Idle(
        ("conditions.low.empty", "evaluation.sampler.guidance.audio"),
        "conditions.low.dropout is 0",
        lambda c: not c.conditions.low.dropout,
    ),
    Idle(("model.checkpoint",), "model.init is scratch", lambda c: c.model.init == "scratch"),
    Idle(
        ("training.ema.beta", "training.ema.power"),
        "evaluation.weights is raw",
        lambda c: c.evaluation.weights == "raw",
    ),
    Idle(("training.schedule.gamma",), "training.schedule.power is 0", lambda c: not c.training.schedule.power),
)


def acting(config: Config) -> Config:
    """Return a configuration with all keys at their defaults that do nothing in it: equal ones give equal results.

    For comparison alone: a fingerprint is of what is written.
    """
    for key in [key for idle in IDLE if idle.holds(config) for key in idle.keys]:
        config = _at_default(config, key.split("."))
    return config


def _at_default(section: M, path: Sequence[str]) -> M:
    name, *rest = path
    value = _at_default(getattr(section, name), rest) if rest else type(section).model_fields[name].default
    return section.model_copy(update={name: value})


def scored_on(config: Config) -> dict[str, Any]:
    """Return what decides the question that a model is asked, by dotted key; ``data.val`` decides it by its content.

    Scores of cells that differ here are of different things. All other keys change the answer: how a model is made and
    used. A reference is the recording itself, whatever the codec. What training cuts off reaches no usable clip.
    """
    scored = config.validation.model_dump(mode="json", exclude={"every"})
    question = {"audio": {"channels": config.audio.channels}, "validation": scored}
    degradation: dict[str, Any] = {"rolloff_cap": config.degradation.rolloff_cap}
    if config.data.policy == "quarantine":  # clips below it are left out
        degradation["cutoff_hz"] = config.degradation.cutoff_hz[0]
    return leaves({**question, "degradation": degradation})


def trained_parts(config: Config) -> list[tuple[str, str]]:
    """Return the family and the name of every part of a user's own that the weights depend on."""
    codec = [("codec", config.codec.part)] if isinstance(config.codec, OwnCodec) else []
    return [*codec, *(("conditioner", part) for part in config.conditions.own)]


def _with_sources(tree: dict[str, Any], own: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return a stage with its parts of a user's own, which count by what their sources say, wherever they lie."""
    if not own:
        return tree
    from sagasr.plugins.parts import sources

    return {**_without_folders(tree), "parts": sources(own)}


def _without_folders(node: Any) -> Any:
    """Return a tree with the files of own parts named without their folders."""
    if isinstance(node, Mapping):
        return {key: _without_folders(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_without_folders(value) for value in node]
    return Path(node).name if isinstance(node, str) and ".py:" in node else node


def _faults(model: type[BaseModel], tree: Mapping[str, Any], error: ValidationError) -> list[str]:
    lines = []
    found = error.errors()
    unknown = [str(fault["loc"][-1]) for fault in found if fault["type"] == "extra_forbidden"]
    for fault in found:
        location = [part for part in fault["loc"] if not _is_union_tag(part, tree, fault["loc"])]
        path = ".".join(map(str, location)) or "(top level)"
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {path!r}{did_you_mean(str(location[-1]), _siblings(model, fault['loc']))}")
        elif fault["type"] == "missing":
            if not nearest(str(location[-1]), unknown):  # else it is there, misspelt, and said so
                lines.append(f"{path} is missing; add it")
        elif fault["type"] in ("literal_error", "union_tag_invalid"):
            lines.append(f"{path}: {_one_of(fault)}")
        elif fault["type"] == "too_long" and isinstance(fault["input"], (list, tuple)):
            most, found_here = fault["ctx"]["max_length"], fault["ctx"]["actual_length"]
            lines.append(f"{path}: expected at most {most} values{_example(model, fault['loc'])} (found {found_here})")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] in FORMS:
                message = f"expected {FORMS[fault['type']]}{_example(model, fault['loc'])}"
            given = fault["input"]
            told = isinstance(given, str) and repr(given) in message
            plain = isinstance(given, (str, int, float, bool, type(None)))
            shown = f" (found {given!r})" if plain and not told else ""
            lines.append(f"{path}: {message[:1].lower()}{message[1:]}{shown}")
    return lines


# what pydantic calls arrays and objects, as a person writes them
FORMS = {
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("model_type", "dict_type", "model_attributes_type"), "keys with values"),
}


def _example(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return what may stand at a location: the example its key has, or else its default."""
    fields = (one.model_fields.get(str(location[-1])) for one in _models_at(model, location) if location)
    for field in fields:
        if field is None:
            continue
        if field.examples:
            return f", such as {field.examples[0]}"
        if isinstance(field.default, tuple) and field.default:
            return f", such as [{', '.join(map(str, field.default))}]"
        keys = [name for found in _models_in(field.annotation) for name in found.model_fields]
        if keys:
            return f", such as {keys[0]}"
    return ""


def _one_of(fault: Any) -> str:
    """Return what a word that is none of those known may have been meant as."""
    context = fault["ctx"]
    listed = context["expected" if fault["type"] == "literal_error" else "expected_tags"]
    words = re.findall(r"'([^']*)'", listed) or [listed]
    given = context.get("tag", fault["input"])
    return f"{given!r} is none of {', '.join(words)}{nearest(str(given), words)}"


def _is_union_tag(part: object, tree: Any, location: tuple[int | str, ...]) -> bool:
    """Discriminated unions add their tag to the location; it is not a key of the file."""
    node: Any = tree
    for key in location[: location.index(part)]:  # type: ignore[arg-type]
        node = node.get(key, node) if isinstance(node, Mapping) else node
    return isinstance(node, Mapping) and node.get("kind") == part and part not in node


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys allowed where an unknown one stood."""
    return [name for found in _models_at(model, location) for name in found.model_fields]


def _models_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """Return the models that a location's last key may belong to; a union's tag in it says which kind it is."""
    here: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        tagged = [m for m in here if "kind" in m.model_fields and part in _words_in(m.model_fields["kind"].annotation)]
        annotations = [m.model_fields[str(part)].annotation for m in here if str(part) in m.model_fields]
        here = tagged or [found for annotation in annotations for found in _models_in(annotation)] or here
    return here


def _words_in(literal: Any) -> tuple[Any, ...]:
    return getattr(literal, "__args__", ())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]
