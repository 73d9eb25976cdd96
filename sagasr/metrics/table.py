"""What is measured: name, unit, direction and definition of every metric. Loads without torch, so that a plan and a
report say the same of a metric as the trainer that computes it (``sagasr.metrics.score``).
"""

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]
DISTANCE = "fd_"  # begins the name of a distance between distributions: a property of a run, not of a clip


@dataclass(frozen=True)
class Metric:
    """One column of the results. One unit of LSD is a log10 of power, so 10 dB; it is never labelled "dB"."""

    name: str
    unit: str
    better: Better
    definition: str
    identity: str  # the score of an estimate that equals the high clip
    silence: str  # of digital silence on either side


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "lsd", "LSD", "lower",
            "log-spectral distance: mean over frames of the root mean square over bins of log10(P_high / P_estimate), "
            "power clipped at 1e-8, Hann 2048/512, channels averaged",
            "0", "finite: silence has power 1e-8; 0 if both are silent",
        ),
        Metric("lsd_lf", "LSD", "lower", "lsd over the bins below the cutoff of the low input", "0", "as lsd"),
        Metric("lsd_hf", "LSD", "lower", "lsd over the bins at or above the cutoff of the low input", "0", "as lsd"),
        Metric(
            "lsd_ssr", "LSD", "lower",
            "log-spectral distance as ssr_eval defines it: log10(T^2 / (E + 1e-12)^2 + 1e-12), Hann 2048/441, mono mix",
            "0, but 12 in frames that are digitally silent", "12 for a silent high clip, whatever the estimate",
        ),
        Metric(
            "log_sispec", "dB", "higher",
            "ssr_eval's log-SiSpec: with L = log10(magnitude + 1e-12) of estimate and high clip, the energy of the "
            "part of L_estimate along L_high over that of the rest, Hann 2048/441, mono mix",
            "near 100 or above, growing with length and level", "finite; silence has L = -12 everywhere",
        ),
        Metric(
            "sispec", "dB", "higher",
            "ssr_eval's SiSpec: the same of the magnitudes themselves",
            "near 100 or above, growing with length and level", "-120 if either side is silent",
        ),
        Metric(
            "ssim", "", "higher",
            "structural similarity as ssr_eval defines it: magnitudes, windows of 7 frames x 7 bins, range 2, Hann "
            "2048/441, mono mix, -1 to 1",
            "1", "near 0 if one side is silent, 1 if both are; none under 7 frames",
        ),
        Metric(
            "si_sdr", "dB", "higher",
            "scale-invariant signal-to-distortion ratio of zero-mean signals, channels averaged, limited to +-100 dB",
            "100", "none for a silent high clip, -100 for a silent estimate",
        ),
        Metric(
            "hf_ratio", "dB", "lower",
            "high-band level difference: |10 log10(E_estimate / E_high)|, E the sum of the powers at or above the "
            "cutoff, each clipped at 1e-8, Hann 2048/512",
            "0", "finite: silence has power 1e-8; 0 if both are silent",
        ),
        Metric(
            "rolloff_error", "Hz", "lower",
            "distance of the roll-offs (98.5 % of the magnitude) of estimate and high clip",
            "0", "none for a silent high clip; a silent estimate rolls off at 0 Hz",
        ),
        Metric(
            "seam", "dB", "lower",
            "line or step at the splice: D(f), the mean over frames of 10 log10(P_estimate / P_high), powers clipped "
            "at 1e-8, is averaged over three adjoining bands of 86 Hz just below, across and just above the splice; "
            "the score is the largest of the three minus the smallest",
            "0", "finite: silence has power 1e-8; 0 if both are silent",
        ),
    )
}  # fmt: skip


def is_distance(name: str) -> bool:
    """Return whether a metric is a distance between distributions, whatever embeds them."""
    return name.startswith(DISTANCE)


def find_metric(name: str) -> Metric | None:
    """Return what the table says of a metric, or of any distance between distributions; None for an unknown one."""
    if is_distance(name):
        definition = (
            "distance of the predictions, as a set, from their high clips: between normal distributions fitted to "
            f"{name.removeprefix(DISTANCE)} embeddings of windows of 1 s"
        )
        return Metric(name, "FD", "lower", definition, "0", "finite")
    return METRICS.get(name)
