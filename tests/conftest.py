"""Settings of the whole suite, made before anything imports torch."""

import os

# Two test processes of two threads each on two cores spend their time waiting for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
