"""How each metric of ``sagasr.metrics.table`` is computed."""

from collections.abc import Callable

from sagasr.metrics import lsd, signal, ssr_eval
from sagasr.metrics.spectra import Pair

Scores = dict[str, float | None]

# Each returns None where the metric has no meaning, never a stand-in for it.
COMPUTE: dict[str, Callable[[Pair], float | None]] = {
    "lsd": lsd.lsd,
    "lsd_lf": lsd.lsd_lf,
    "lsd_hf": lsd.lsd_hf,
    "lsd_ssr": lsd.lsd_ssr,
    "log_sispec": ssr_eval.log_sispec,
    "sispec": ssr_eval.sispec,
    "ssim": ssr_eval.ssim,
    "si_sdr": signal.si_sdr,
    "hf_ratio": signal.hf_ratio,
    "rolloff_error": signal.rolloff_error,
    "seam": signal.seam,
}
