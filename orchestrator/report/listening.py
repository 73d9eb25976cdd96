"""The listening set, packed into a page: FLAC at one loudness, small spectrograms, roll-offs; a fixed budget of bytes.

Lossless on purpose: a lossy codec removes the very band under test. Reads audio/high, audio/low and audio/<replicate>.
"""

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import rfft

from sagasr.audio.files import read_audio
from sagasr.constants import N_FFT, NYQUIST, ROLLOFF_SHARE, SAMPLE_RATE
from sagasr.io.errors import DataError

CORE = 4  # versions that every clip should have: low, high, baseline, best
MAX_BYTES = 12_000_000  # of audio and images in base64; the page may weigh 15 MB
WINDOW = np.hanning(N_FFT).astype(np.float32)
PEAK = 0.89  # -1 dBFS: the loudest take of a clip
WIDTH, HEIGHT, ZOOM = 168, 112, 40  # pixels of a spectrogram and of the enlarged band beneath it
ZOOM_BAND = (0.6, 1.4)  # of the roll-off of the low input
RANGE_DB = 90.0
SHADES = 32
GAP, ENLARGED = 4, 2  # pixels of a triptych
STOPS = ((8, 8, 28), (46, 20, 92), (122, 32, 118), (196, 58, 88), (238, 118, 50), (250, 190, 70), (252, 250, 210))

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Version:
    """One answer for every clip: the low input, the high recording, or a cell. ``folder`` lies in audio/."""

    name: str
    kind: str  # low | high | cell
    folder: str


@dataclass(frozen=True)
class Take:
    """A clip in one version: FLAC and PNG in base64, and by how many dB its level was moved to match the others."""

    audio: str
    image: str
    gain_db: float

    @property
    def size(self) -> int:
        return len(self.audio) + len(self.image)


@dataclass(frozen=True)
class Clip:
    """A clip with its takes, by index of the version; None where a file is missing or broken."""

    name: str
    seconds: float
    rolloff_hz: float
    takes: Mapping[int, Take]


@dataclass(frozen=True)
class ListeningSet:
    """What the page plays, and in words what it left out."""

    versions: tuple[Version, ...] = ()
    clips: tuple[Clip, ...] = ()
    notes: tuple[str, ...] = ()


def listening_set(
    audio: Path, versions: Sequence[Version], rank: Sequence[str], max_bytes: int = MAX_BYTES
) -> ListeningSet:
    """Return the clips in the order of ``rank`` (unknown ones last), as much of them as ``max_bytes`` hold.

    The first ``CORE`` versions come first, for as many clips as fit; then version by version, for clip by clip.
    """
    versions = tuple(version for version in versions if (audio / version.folder).is_dir())
    names = {path.stem for each in versions if each.kind == "high" for path in (audio / each.folder).glob("*.flac")}
    place = {name: index for index, name in enumerate(rank)}
    order = sorted(names, key=lambda name: (place.get(name, len(place)), name))
    notes: list[str] = []
    clips = [clip for name in order if (clip := _clip(audio, versions, name, notes)) is not None]
    clips, notes = _fitting(clips, len(versions), max_bytes, notes)
    used = max((index for clip in clips for index in clip.takes), default=-1) + 1
    return ListeningSet(versions[: max(used, 2)], tuple(clips), tuple(notes))


def _fitting(
    clips: Sequence[Clip], num_versions: int, max_bytes: int, notes: list[str]
) -> tuple[list[Clip], list[str]]:
    """Return what fits, and in words what does not."""
    core = [sum(take.size for index, take in clip.takes.items() if index < CORE) for clip in clips]
    count = len(clips)
    while count > 1 and sum(core[:count]) > max_bytes:
        count -= 1
    order = [(place, index) for index in range(num_versions) for place in range(count) if index in clips[place].takes]
    sizes = itertools.accumulate(clips[place].takes[index].size for place, index in order)
    fitting = {take for take, size in zip(order, sizes, strict=True) if size <= max_bytes}
    if count < len(clips):
        left = f"{count} of {len(clips)} clips, those where the cells differ most: more would not fit this page"
        notes = [left, *notes]
    kept = [
        replace(clip, takes={index: take for index, take in clip.takes.items() if (place, index) in fitting})
        for place, clip in enumerate(clips[:count])
    ]
    whole = min((len(clip.takes) for clip in kept), default=0)
    if len(fitting) < len(order) and whole < num_versions:
        left = f"{whole} of {num_versions} versions of every clip (low, high, baseline, best, ladder, then plan order)"
        notes = [f"{left}: more would not fit this page; all of them lie in audio/", *notes]
    return [clip for clip in kept if clip.takes], notes


def _clip(audio: Path, versions: Sequence[Version], name: str, notes: list[str]) -> Clip | None:
    sounds: dict[int, Audio] = {}
    for index, version in enumerate(versions):
        path = audio / version.folder / f"{name}.flac"
        try:
            if path.exists():
                sounds[index] = read_audio(path, None)
        except DataError as error:
            notes.append(f"left out: {version.name}, {name}: {str(error).rsplit(': ', 1)[-1]}")
    high = next((sounds[index] for index in sounds if versions[index].kind == "high"), None)
    if high is None:
        return None
    low = next((sounds[index] for index in sounds if versions[index].kind == "low"), high)
    length = min(sound.shape[-1] for sound in sounds.values())
    rolloff = rolloff_hz(power(low))
    crests = [float(np.abs(sound).max()) / level for sound in sounds.values() if (level := _rms(sound)) > 0]
    target = PEAK / max(crests, default=1.0)  # the RMS of all takes: the loudest that lets none of them clip
    top = float(decibel(power(high)).max())
    takes = {}
    for index, sound in sounds.items():
        gain = target / level if (level := _rms(sound)) > 0 else 1.0
        files = flac(sound[:, :length] * gain), png(shades(power(sound), top, rolloff))
        heard, seen = (base64.b64encode(data).decode() for data in files)
        takes[index] = Take(heard, seen, 20 * float(np.log10(gain)))
    return Clip(name, length / SAMPLE_RATE, rolloff, takes)


def _rms(sound: Audio) -> float:
    return float(np.sqrt(np.var(sound, axis=-1, dtype=np.float64).mean()))  # an offset is not heard


def flac(sound: Audio) -> bytes:
    """Return audio [C, T] as 16-bit FLAC."""
    buffer = io.BytesIO()
    soundfile.write(
        buffer, np.clip(sound[:2].T, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=1.0
    )
    return buffer.getvalue()


def power(sound: Audio) -> NDArray[np.float32]:
    """Return the power [WIDTH, F] of audio [C, T] at ``WIDTH`` places, mean over the channels, which may cancel."""
    padded = np.pad(sound, ((0, 0), (N_FFT // 2, max(N_FFT // 2, N_FFT - sound.shape[-1]))))
    starts = np.linspace(0, padded.shape[-1] - N_FFT, WIDTH).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT, axis=-1)[:, starts] * WINDOW
    bins = rfft(frames, axis=-1)
    return np.asarray((np.square(bins.real) + np.square(bins.imag)).mean(0), dtype=np.float32)


def rolloff_hz(spectrum: NDArray[np.float32]) -> float:
    """Return the frequency below which 98.5 % of the summed magnitude lies; 0 for silence."""
    summed = np.cumsum(np.sqrt(spectrum).sum(axis=0, dtype=np.float64))
    return float(np.searchsorted(summed, ROLLOFF_SHARE * summed[-1])) * SAMPLE_RATE / N_FFT


def shades(spectrum: NDArray[np.float32], top: float, rolloff: float) -> NDArray[np.uint8]:
    """Return rows of shades, high frequencies first: all frequencies, a dark rule, the band round ``rolloff``."""
    bins = np.array(ZOOM_BAND) * rolloff / NYQUIST * (spectrum.shape[1] - 1)
    first = int(np.clip(bins[0], 0, spectrum.shape[1] - ZOOM - 1))
    last = int(np.clip(bins[1], first + ZOOM, spectrum.shape[1]))
    rows = [_rows(spectrum, HEIGHT), np.full((2, WIDTH), -np.inf), _rows(spectrum[:, first:last], ZOOM)]
    scaled = (np.concatenate(rows) - (top - RANGE_DB)) / RANGE_DB
    return np.asarray(np.clip(scaled * SHADES, 0, SHADES - 1), dtype=np.uint8)


def _rows(spectrum: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    edges = np.linspace(0, spectrum.shape[1], count + 1).astype(int)
    sums = np.add.reduceat(spectrum, edges[:-1], axis=1, dtype=np.float64) / np.diff(edges)
    return decibel(sums).T[::-1]


def decibel(spectrum: NDArray) -> NDArray[np.float64]:
    return np.asarray(10 * np.log10(np.maximum(spectrum, 1e-12)), dtype=np.float64)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return rows of shades [H, W] as a PNG with a palette."""
    stops, places = np.array(STOPS, float), np.linspace(0, len(STOPS) - 1, SHADES)
    palette = np.stack([np.interp(places, range(len(STOPS)), channel) for channel in stops.T], axis=1)
    picture = Image.fromarray(pixels)
    picture.putpalette(palette.round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def triptych(low: Path, answer: Path, high: Path) -> bytes:
    """Return a PNG for a tracking server: three spectrograms on one scale, over the enlarged band round the roll-off.

    Raises DataError for a file that is not readable.
    """
    spectra = [power(read_audio(path, None)) for path in (low, answer, high)]
    rolloff, top = rolloff_hz(spectra[0]), float(decibel(spectra[-1]).max())
    parts = []
    for spectrum in spectra:
        picture = shades(spectrum, top, rolloff)
        row = round(HEIGHT * (1 - rolloff / NYQUIST))
        picture[min(max(row, 0), HEIGHT - 1), ::4] = SHADES - 1  # a dotted line at the roll-off
        parts += [picture, np.full((len(picture), GAP), SHADES - 1, dtype=np.uint8)]
    whole = np.concatenate(parts[:-1], axis=1)
    return png(np.ascontiguousarray(whole.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)))
