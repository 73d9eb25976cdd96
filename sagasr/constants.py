"""Numbers that the model and whoever plans or reports on it must agree on. Nothing is imported here."""

SAMPLE_RATE = 44_100  # Hz; of the model, the codec and every metric
NYQUIST = SAMPLE_RATE / 2
N_FFT = 2_048  # samples of an analysis window
ROLLOFF_SHARE = 0.985  # of the magnitude summed over a clip (SAGA-SR section 3.2)
LISTENING_CLIPS = 8  # kept as audio of each variant
CHECKPOINTS_KEPT = 2
