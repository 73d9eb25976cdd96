"""A spectrogram triptych for the runs of a tracking server: low input, answer, high, on one scale, roll-off marked."""

from pathlib import Path

import numpy as np

from orchestrator.report.listening import HEIGHT, SHADES, Audio, decibel, png, power, rolloff_hz, shades
from sagasr.audio.files import read_audio
from sagasr.constants import NYQUIST

GAP, ENLARGED = 4, 2  # pixels


def triptych(low: Path, answer: Path, high: Path) -> bytes:
    """Return a PNG: the three spectrograms side by side, over the band round the roll-off of the low input, enlarged.

    Raises DataError for a file that is not readable.
    """
    sounds: list[Audio] = [read_audio(path, None) for path in (low, answer, high)]
    spectra = [power(sound) for sound in sounds]
    rolloff, top = rolloff_hz(spectra[0]), float(decibel(spectra[-1]).max())
    parts = []
    for spectrum in spectra:
        picture = shades(spectrum, top, rolloff)
        row = round(HEIGHT * (1 - rolloff / NYQUIST))
        picture[min(max(row, 0), HEIGHT - 1), ::4] = SHADES - 1  # a dotted line at the roll-off
        parts += [picture, np.full((len(picture), GAP), SHADES - 1, dtype=np.uint8)]
    whole = np.concatenate(parts[:-1], axis=1)
    return png(np.ascontiguousarray(whole.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)))
