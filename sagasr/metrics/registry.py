"""The one table of what is measured per clip: name, unit, direction, definition, and what to expect of odd clips."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sagasr.metrics import lsd, signal, ssr_eval
from sagasr.metrics.spectra import Pair

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Metric:
    """One column of the results. ``compute`` returns None where the metric has no meaning, never a stand-in for it."""

    name: str
    unit: str
    better: Literal["lower", "higher"]
    definition: str
    identity: str  # the score of an estimate that equals the high clip
    silence: str  # of digital silence on either side
    compute: Callable[[Pair], float | None]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "lsd", "log10 power", "lower",
            "log-spectral distance: mean over frames of the root mean square over bins of log10(P_high / P_estimate), "
            "power clipped at 1e-8, Hann 2048/512, channels averaged",
            "0", "finite: silence has power 1e-8; 0 if both are silent",
            lsd.lsd,
        ),
        Metric(
            "lsd_lf", "log10 power", "lower", "lsd over the bins below the cutoff of the low input",
            "0", "as lsd", lsd.lsd_lf,
        ),
        Metric(
            "lsd_hf", "log10 power", "lower", "lsd over the bins at or above the cutoff of the low input",
            "0", "as lsd", lsd.lsd_hf,
        ),
        Metric(
            "lsd_ssr", "log10 power", "lower",
            "log-spectral distance as ssr_eval defines it: log10(T^2 / (E + 1e-12)^2 + 1e-12), Hann 2048/441, mono mix",
            "0, but 12 in frames that are digitally silent", "12 for a silent high clip, whatever the estimate",
            lsd.lsd_ssr,
        ),
        Metric(
            "log_sispec", "dB", "higher",
            "ssr_eval's log-SiSpec: with L = log10(magnitude + 1e-12) of estimate and high clip, the energy of the "
            "part of L_estimate along L_high over that of the rest, Hann 2048/441, mono mix",
            "near 100 or above, growing with length and level", "finite; silence has L = -12 everywhere",
            ssr_eval.log_sispec,
        ),
        Metric(
            "sispec", "dB", "higher",
            "ssr_eval's SiSpec: the same of the magnitudes themselves",
            "near 100 or above, growing with length and level", "-120 if either side is silent",
            ssr_eval.sispec,
        ),
        Metric(
            "ssim", "", "higher",
            "structural similarity as ssr_eval defines it: magnitudes, windows of 7 frames x 7 bins, range 2, Hann "
            "2048/441, mono mix, -1 to 1",
            "1", "near 0 if one side is silent, 1 if both are; none under 7 frames",
            ssr_eval.ssim,
        ),
        Metric(
            "si_sdr", "dB", "higher",
            "scale-invariant signal-to-distortion ratio of zero-mean signals, channels averaged, limited to +-100 dB",
            "100", "none for a silent high clip, -100 for a silent estimate",
            signal.si_sdr,
        ),
        Metric(
            "hf_ratio", "dB", "lower",
            "high-band level difference: |10 log10(E_estimate / E_high)|, E the sum of the powers at or above the "
            "cutoff, each clipped at 1e-8, Hann 2048/512",
            "0", "finite: silence has power 1e-8; 0 if both are silent",
            signal.hf_ratio,
        ),
        Metric(
            "rolloff_error", "Hz", "lower",
            "distance of the roll-offs (98.5 % of the magnitude) of estimate and high clip",
            "0", "none for a silent high clip; a silent estimate rolls off at 0 Hz",
            signal.rolloff_error,
        ),
        Metric(
            "seam", "dB", "lower",
            "line or step at the splice: D(f), the mean over frames of 10 log10(P_estimate / P_high), powers clipped "
            "at 1e-8, is averaged over three adjoining bands of 86 Hz just below, across and just above the splice; "
            "the score is the largest of the three minus the smallest",
            "0", "finite: silence has power 1e-8; 0 if both are silent",
            signal.seam,
        ),
    )
}  # fmt: skip
