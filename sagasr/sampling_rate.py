"""The one sampling rate of models, codecs and metrics."""

SAMPLE_RATE = 44_100  # Hz
NYQUIST = SAMPLE_RATE / 2
