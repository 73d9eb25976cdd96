"""Every setting that can change a number, as strict, frozen models. Loads without torch.

A configuration file is a tree of these keys; defaults are the values of the SAGA-SR paper and its released code
(arXiv 2509.24924), a file states what differs. Settings that cannot change a result (workers, devices, logging) are
not here but in ``sagasr.config.runtime``; no fingerprint contains them.
"""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from sagasr.config.strict import Strict
from sagasr.constants import NYQUIST
from sagasr.io.errors import nearest

GET_STABLE_AUDIO = (
    "get stabilityai/stable-audio-open-1.0 from Hugging Face (accept its licence there, then hf download with "
    "--local-dir FOLDER)"
)

# width, layers, heads and condition width of the diffusion transformer; what the factor `size` patches
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 128, "depth": 2, "num_heads": 2, "cond_dim": 128},
    "small": {"embed_dim": 512, "depth": 8, "num_heads": 8, "cond_dim": 512},
    "medium": {"embed_dim": 768, "depth": 16, "num_heads": 12, "cond_dim": 768},
    "full": {"embed_dim": 1536, "depth": 24, "num_heads": 24, "cond_dim": 768},
}
# Names of parts by family: words for ours; any other is a user's own (sagasr.plugins.parts).
PARTS = {"metric": (), "embedder": ("spectral", "clap", "off"), "sampler": ("euler",), "codec": (), "conditioner": ()}


def known(family: str) -> AfterValidator:
    """Return a check of one name or several: each is ours, or installed, or may be a class of a user's own."""

    def check(names: Any) -> Any:
        ours = PARTS[family]
        for part in [names] if isinstance(names, str) else names:
            if part in ours or ":" in part:
                continue
            installed = {point.name for point in entry_points(group=f"sagasr.{family}s")}
            if part not in installed:
                none_of = f"none of {', '.join(ours)}, " if ours else ""
                hint = nearest(part, installed | set(ours))
                raise ValueError(f"{part!r} is {none_of}not installed, and not FILE.py:CLASS{hint}")
        return names

    return AfterValidator(check)


class Data(Strict):
    """Manifests (CSV, Parquet or JSON lines), or folders; where one has splits, only the rows of the split count."""

    train: str
    val: str
    # recordings that cannot be used: strict stops and names them, quarantine leaves them out
    policy: Literal["strict", "quarantine"] = "strict"


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
    # FILE.py:CLASS, MODULE:CLASS, or the name of an entry point
    part: Annotated[str, known("codec")]
    ratio: Literal[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048] = Field(description="samples per latent frame")
    latent_channels: int = Field(ge=1, description="latents per frame")
    # twice the audio has twice the latents; false (most neural codecs): audio keeps its level
    linear: bool = True
    companding: float = Field(1.0, gt=0, le=1)

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
        for name, (low, high), least, most in (
            ("order", self.order, 1, 20),
            ("cutoff_hz", self.cutoff_hz, 500, NYQUIST),
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
    # where roll-off enters: as two tokens of the cross-attention, in the global vector beside the time, or both
    # (paper); prepend: two tokens and, with the time, a prepended one (seed plan)
    rolloff_route: Literal["both", "cross", "global", "prepend"] = "both"
    # 1 is 22,050 Hz; released: as the authors' code counts, a bin lower and over 1,025 bins
    rolloff_scale: Literal["nyquist", "released"] = "nyquist"
    seconds: Literal["off", "on"] = Field("off", description="seconds_start and seconds_total as global conditions")
    # of the user's own, named as validation.metrics: each says what one more token holds
    own: Annotated[tuple[str, ...], known("conditioner")] = ()

    @field_validator("own")
    @classmethod
    def _are_distinct(cls, own: tuple[str, ...]) -> tuple[str, ...]:
        if len({Path(part).name for part in own}) < len(own):
            raise ValueError("names a class twice; remove one")
        return own

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
    # per channel zero mean and unit variance, or as the codec gives them (released code)
    latents: Literal["normalised", "raw"] = "normalised"
    # level: the network corrects the best linear guess for channels of their typical level
    preconditioning: Literal["off", "level"] = "off"
    # pretrained: starts as the transformer in checkpoint, its input widened with zeros
    init: Literal["scratch", "pretrained"] = "scratch"
    checkpoint: str | None = Field(None, description="Stable Audio Open's weights, .safetensors or .ckpt")

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
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
    # of a training step; on a GPU 32-true takes matrix products in TF32
    precision: Literal["32-true", "bf16-mixed"] = "32-true"


class Distance(Strict):
    """The embeddings of which the distribution distance (FD) between predictions and high clips is taken."""

    # spectral: band levels, needs no weights; clap: the audio tower of model; off; or one of your own, as
    # validation.metrics
    embedder: Annotated[str, known("embedder")] = "spectral"
    model: str = Field("laion/clap-htsat-unfused", description="for clap: a folder, or a name in transformers' cache")


class Validation(Strict):
    """What is scored, and when; frozen, so that a score is a function of the weights alone."""

    every: int = Field(1_000, ge=1, description="training steps between two validations")
    clips: int = Field(64, ge=1, description="at most so many, spread evenly over the domains")
    segment: int = Field(65_536, ge=8_192, description="samples scored of each recording, its loudest stretch")
    filter: FilterFamily = "chebyshev1"
    order: int = Field(8, ge=1, le=20)
    cutoff_hz: float = Field(4_000.0, ge=500, le=NYQUIST, description="capped by rolloff_cap as in training")
    distance: Distance = Distance()
    # of your own, beside ours: FILE.py:CLASS, MODULE:CLASS, or the name of an entry point
    metrics: Annotated[tuple[str, ...], known("metric")] = ()


class Guidance(Strict):
    """Strengths s_a and s_t (paper eq. 5). A branch whose null the model never saw in training is not guided."""

    audio: float = Field(1.4, ge=0)
    text: float = Field(1.2, ge=0)


class Sampler(Strict):
    steps: int = Field(100, ge=1, le=1_000)
    schedule: Literal["linear", "linear-quadratic"] = "linear-quadratic"
    guidance: Guidance = Guidance()
    # how steps are taken: euler, or one of your own, as validation.metrics
    solver: Annotated[str, known("sampler")] = "euler"


class Evaluation(Strict):
    """How a trained model is used: the eval stage. Nothing here touches training."""

    sampler: Sampler = Sampler()
    weights: Literal["ema", "raw"] = "ema"
    lfr: Literal["off", "hard", "crossfade"] = Field("off", description="low-frequency replacement after decoding")
    # on: low is brought to the generated level, within 0.8 to 1.2, as released; off: unchanged
    lfr_ratio: Literal["off", "on"] = "off"
    # target roll-off: the high clip's own, a constant, or predicted from the low clip
    rolloff_target: Literal["oracle", "fixed", "estimated"] = "oracle"
    rolloff_fixed: float = Field(0.9, ge=0, le=1, description="the constant, as a share of 22,050 Hz")


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


def downsampling_ratio(codec: Codec) -> int:
    """Return the samples per latent frame."""
    match codec:
        case Wavelet(levels=levels):
            return int(2**levels)
        case Pqmf(bands=samples) | Patched(patch=samples) | OwnCodec(ratio=samples):
            return int(samples)
        case StableAudio():
            return 2_048


def latent_channels(codec: Codec, channels: int) -> int:
    """Return how many latents each frame of audio of 1 or 2 channels has."""
    if isinstance(codec, OwnCodec):
        return codec.latent_channels
    return 64 if isinstance(codec, StableAudio) else channels * downsampling_ratio(codec)
