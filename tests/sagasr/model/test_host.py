"""The door to stable-audio-tools: silent, late, and leaving no stand-ins behind."""

import subprocess
import sys

PROBE = """
import sys, types
installed = sys.modules["flash_attn"] = types.ModuleType("flash_attn")
installed.flash_attn_func = print
import sagasr.published.stable_audio, sagasr.codec, sagasr.model
assert "stable_audio_tools" not in sys.modules, "imported before it is needed"
assert "transformers" not in sys.modules, "imported before it is needed"
from sagasr.config.settings import Pqmf, Wavelet
from sagasr.published.stable_audio import load_stock
from sagasr.codec.stable_audio_codecs import build_transform
build_transform(Wavelet(kind="wavelet"), 1)
build_transform(Pqmf(kind="pqmf"), 1)
load_stock("stable_audio_tools.models.autoencoders")
transformer = load_stock("stable_audio_tools.models.transformer")
assert transformer.flash_attn_func is None, "attention must be torch's own on every machine"
assert sys.modules["flash_attn"] is installed
assert "k_diffusion" not in sys.modules
import scipy.signal
assert not hasattr(scipy.signal, "kaiser")
"""


def test_importing_and_using_the_host_is_silent_and_leaves_nothing_behind() -> None:
    ran = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", PROBE], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
