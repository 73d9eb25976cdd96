"""Recordings in the formats of the wild, made by FFmpeg as its command line makes them."""

import io
from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np


def encoded(
    path: Path,
    samples: np.ndarray,
    rate: int,
    codec: str,
    options: Mapping[str, str] | None = None,
    kind: str | None = None,
    **codec_options: str,
) -> Path:
    """Write float32 [C, T] by one of FFmpeg's encoders into the container of the suffix, or of ``kind``."""
    with av.open(str(path), "w", format=kind, options=dict(options or {})) as container:
        _encode(container, [samples], rate, codec, codec_options)
    return path


def piped(path: Path, samples: np.ndarray, rate: int, codec: str, kind: str, **options: str) -> Path:
    """Write as ``ffmpeg … - > path`` does: headers cannot be written again when the length is known."""

    class Pipe:
        name = path.name

        def __init__(self) -> None:
            self.written = io.BytesIO()

        def write(self, data: bytes) -> int:
            return self.written.write(data)

    pipe = Pipe()
    with av.open(pipe, "w", format=kind, options=options) as container:
        _encode(container, [samples], rate, codec, {})
    path.write_bytes(pipe.written.getvalue())
    return path


def with_streams(path: Path, sounds: list[np.ndarray], rate: int, codec: str, film: bool = False) -> Path:
    """Write several audio streams into one container, and a film of one black picture beside them."""
    with av.open(str(path), "w") as container:
        if film:
            video = container.add_stream("mpeg4", rate=25, width=64, height=64)
            video.pix_fmt = "yuv420p"
        _encode(container, sounds, rate, codec, {})
        if film:
            picture = av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), format="yuv420p")
            container.mux([*video.encode(picture), *video.encode(None)])
    return path


def _encode(
    container: av.container.OutputContainer,
    sounds: list[np.ndarray],
    rate: int,
    codec: str,
    codec_options: Mapping[str, str],
) -> None:
    layouts = ["mono" if len(samples) == 1 else "stereo" for samples in sounds]
    bits = int(codec_options.get("b", 128_000))
    streams = [
        container.add_stream(codec, rate=rate, layout=layout, options=dict(codec_options), bit_rate=bits)
        for layout in layouts
    ]
    for stream in streams:
        known = stream.codec_context.codec.audio_formats
        stream.codec_context.format = max(known, key=lambda it: it.name in ("s16", "s16p", "fltp"))
    for stream, samples, layout in zip(streams, sounds, layouts, strict=True):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate)
        for part in (frame, None):
            for piece in resampler.resample(part):
                container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
