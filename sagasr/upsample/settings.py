"""How recordings are upsampled."""

import math
from dataclasses import dataclass
from typing import Literal

from sagasr.audio.low_band import Kind
from sagasr.constants import NYQUIST
from sagasr.io.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Settings:
    """How recordings are upsampled. Raises ConfigError for what cannot be meant."""

    rolloff_target: float | Literal["estimated"] = "estimated"  # share of 22,050 Hz, or guessed per window
    lfr: Kind = "crossfade"
    steps: int | None = None  # None: as the model was validated
    guidance: tuple[float, float] | None = None  # audio, text; None: as the model was validated
    text: str = ""
    seed: int = 0
    cutoff_hz: float | None = None  # below it the recording is kept; None: found in its spectrum

    def __post_init__(self) -> None:
        target = self.rolloff_target
        if target != "estimated" and not (isinstance(target, (int, float)) and 0 <= target <= 1):
            raise ConfigError(f"roll-off target {target!r}: a share of {NYQUIST:g} Hz from 0 to 1, or 'estimated'")
        if self.lfr not in (kinds := ("off", "hard", "crossfade")):
            raise ConfigError(f"lfr {self.lfr!r} is not known{did_you_mean(self.lfr, kinds)}")
        if self.guidance is not None and not all(0 <= strength < math.inf for strength in self.guidance):
            raise ConfigError(f"guidance {self.guidance[0]:g},{self.guidance[1]:g}: two strengths of at least 0")
        if self.cutoff_hz is not None and not 0 < self.cutoff_hz < NYQUIST:
            raise ConfigError(f"cutoff {self.cutoff_hz:g} Hz: a frequency between 0 and {NYQUIST:g}")
