"""The distribution distance is the Fréchet formula, finite for any number of windows, and lands in a trial's scores."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

import sagasr
from sagasr.audio.degrade import Draw, degrade
from sagasr.audio.files import read_audio
from sagasr.config.parsing import parse
from sagasr.config.patching import located
from sagasr.config.settings import Config, Distance
from sagasr.constants import SAMPLE_RATE
from sagasr.io.errors import ConfigError, DataError
from sagasr.metrics.distance import (
    Clap,
    Distances,
    Embedder,
    Normal,
    Spectral,
    build_embedder,
    frechet,
    missing_weights,
    windows,
)

RECORDINGS = Path(sagasr.__file__).parent / "recordings"


def draws(n: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return scale * torch.randn(n, width, generator=generator, dtype=torch.float64) @ mixing + shift


def textbook(one: Tensor, other: Tensor) -> float:
    """Return the Fréchet distance by its formula, with scipy's matrix square root."""
    means, covariances = (
        [part.mean(0).numpy() for part in (one, other)],
        [np.cov(part.T.numpy()) for part in (one, other)],
    )
    root = sqrtm(covariances[0] @ covariances[1]).real
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root))


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """Twelve shipped recordings, four of each domain, [12, 1, 1.5 s]."""
    found = []
    for domain in ("effects", "music", "speech"):
        for path in sorted((RECORDINGS / domain).glob("*.flac"))[:4]:
            audio = torch.from_numpy(read_audio(path, 1))[:, : SAMPLE_RATE * 3 // 2]
            found.append(torch.nn.functional.pad(audio, (0, SAMPLE_RATE * 3 // 2 - audio.shape[1])))
    return torch.stack(found)


DOMAINS = ["effects"] * 4 + ["music"] * 4 + ["speech"] * 4


def low_of(clips: Tensor) -> Tensor:
    draw = Draw("chebyshev1", 8, 4_000.0)
    return torch.stack([torch.from_numpy(degrade(clip.numpy(), draw)).float() for clip in clips])


# the formula


@pytest.mark.parametrize(("n", "m"), [(200, 200), (50, 300), (9, 200)])
def test_it_is_the_textbook_formula(n: int, m: int) -> None:
    one, other = draws(n, 8, 1), draws(m, 8, 2, 1.5, 0.3)
    assert frechet(Normal.of(one), Normal.of(other)) == pytest.approx(textbook(one, other), rel=1e-8)


def test_with_fewer_windows_than_dimensions_it_is_finite_and_that_of_the_space_they_span() -> None:
    """Seven windows in a hundred dimensions: the formula in coordinates of the 13 dimensions that are used at all."""
    one, other = draws(7, 100, 1), draws(7, 100, 2)
    basis = torch.linalg.qr(torch.cat([one, other]).T).Q
    assert frechet(Normal.of(one), Normal.of(other)) == pytest.approx(textbook(one @ basis, other @ basis), rel=1e-5)


def test_one_dimension_is_the_difference_of_means_and_deviations() -> None:
    one = draws(100, 1, 1)
    assert frechet(Normal.of(one), Normal.of(3 * one + 2)) == pytest.approx(
        float((2 + 2 * one.mean()) ** 2 + (2 * one.std()) ** 2), rel=1e-9
    )


def test_it_is_symmetric_never_negative_and_zero_for_the_same() -> None:
    one, other = Normal.of(draws(30, 16, 1)), Normal.of(draws(30, 16, 2))
    assert frechet(one, other) == pytest.approx(frechet(other, one), rel=1e-9)
    assert 0 <= frechet(one, one) < 1e-9
    constant = Normal.of(torch.ones(5, 16))  # no covariance at all
    assert frechet(constant, constant) == 0


def test_it_is_too_large_with_few_windows_and_falls_as_they_grow() -> None:
    """Two samples of one distribution: what remains is the bias, so only equal n compare."""
    found = [frechet(Normal.of(torch.randn(n, 16)), Normal.of(torch.randn(n, 16))) for n in (20, 200, 2_000)]
    assert found[0] > 5 * found[1] > 25 * found[2] > 0


# windows


@pytest.mark.parametrize(
    ("samples", "starts"),
    [(100, [0]), (44_100, [0]), (44_101, [0, 1]), (66_150, [0, 22_050]), (70_000, [0, 22_050, 25_900])],
)
def test_windows_of_a_second_start_every_half_second_and_reach_the_end(samples: int, starts: list[int]) -> None:
    ramp = torch.arange(samples, dtype=torch.float64).expand(2, 2, samples)
    found = windows(ramp)
    assert found.shape == (2, len(starts), min(samples, 44_100))
    assert found[1, :, 0].tolist() == starts
    assert found[0, -1, -1] == samples - 1


# sets of clips


def test_the_distance_grows_with_the_damage_and_sees_each_domain(clips: Tensor) -> None:
    distances = Distances(clips, DOMAINS, Spectral())
    same, dull, noisy, silent = (
        distances.of(audio)
        for audio in (clips, 0.5 * clips + 0.5 * low_of(clips), low_of(clips), torch.zeros_like(clips))
    )
    assert [row.domain for row in same] == ["all", "effects", "music", "speech"]
    assert {row.metric for row in same} == {"fd_spectral"}
    assert [(row.clips, row.n) for row in same] == [(12, 24), (4, 8), (4, 8), (4, 8)]
    for place in range(4):
        values = [rows[place].value for rows in (same, dull, noisy, silent)]
        assert values[0] == pytest.approx(0, abs=1e-9)
        assert values == sorted(values)  # type: ignore[type-var]
        assert values[1] > 1  # type: ignore[operator]


def test_it_does_not_ask_which_clip_is_whose(clips: Tensor) -> None:
    distances = Distances(clips, DOMAINS, Spectral())
    assert distances.of(clips.flip(0))[0].value == pytest.approx(0, abs=1e-9)
    assert distances.of(clips.roll(4, 0))[1].value > 1  # type: ignore[operator]  # speech where effects should be


def test_what_cannot_be_computed_has_a_reason_and_no_number(clips: Tensor) -> None:
    broken = clips.clone()
    broken[0, 0, 1_000] = math.nan
    rows = {row.domain: row for row in Distances(clips, DOMAINS, Spectral()).of(broken)}
    assert (rows["all"].value, rows["all"].reason) == (None, "1 of 12 clips are not finite")
    assert (rows["effects"].value, rows["effects"].reason) == (None, "1 of 4 clips are not finite")
    assert rows["speech"].value == pytest.approx(0, abs=1e-9)
    alone = Distances(clips[:1, :, :44_100], ["effects"], Spectral()).of(clips[:1, :, :44_100])
    assert {(row.value, row.n, row.reason) for row in alone} == {(None, 1, "1 window has no covariance")}


def test_the_spectral_embedding_reads_levels_in_decibels_over_ten() -> None:
    noise = 0.1 * torch.randn(3, 44_100)
    quiet, loud = Spectral().embed(noise), Spectral().embed(10 * noise)
    assert quiet.shape == (3, 64)
    assert torch.allclose(loud[:, :32] - quiet[:, :32], torch.tensor(2.0), atol=1e-3)
    assert torch.allclose(loud[:, 32:], quiet[:, 32:], atol=1e-3)
    assert torch.equal(Spectral().embed(torch.zeros(1, 44_100)), torch.tensor([[-8.0] * 32 + [0.0] * 32]))


def test_another_embedder_is_one_small_class(clips: Tensor) -> None:
    class Level(Embedder):
        name = "level"

        def embed(self, windows: Tensor) -> Tensor:
            return windows.square().mean(-1, keepdim=True)

    rows = Distances(clips, DOMAINS, Level()).of(2 * clips)
    power = windows(clips).square().mean(-1).flatten().double()
    expected = 9 * power.mean() ** 2 + 9 * power.var()
    assert rows[0].metric == "fd_level"
    assert rows[0].value == pytest.approx(float(expected), rel=1e-4)


# CLAP


@pytest.fixture(scope="module", params=["unfused", "fused"])
def clap_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLAP of random weights in the published layout: text tower and all, small."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    fused = request.param == "fused"
    folder = tmp_path_factory.mktemp(request.param)
    audio = {
        "spec_size": 64, "hidden_size": 32, "patch_size": 4, "patch_stride": [4, 4], "num_mel_bins": 16,
        "window_size": 4, "depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 16,
        "projection_dim": 24, "aff_block_r": 2, "enable_fusion": fused,
    }  # fmt: skip
    text = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "projection_dim": 24,
    }  # fmt: skip
    torch.manual_seed(0)
    ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=24)).save_pretrained(folder)
    truncation = "fusion" if fused else "rand_trunc"
    ClapFeatureExtractor(feature_size=16, max_length_s=2, truncation=truncation).save_pretrained(folder)
    return folder


def test_clap_embeds_as_transformers_does(clap_folder: Path) -> None:
    from transformers import ClapFeatureExtractor, ClapModel

    noise = 0.1 * torch.randn(3, 44_100, generator=torch.Generator().manual_seed(1))
    found = Clap(str(clap_folder)).embed(noise)
    assert found.shape == (3, 24)
    assert torch.equal(found, Clap(str(clap_folder)).embed(noise))
    extractor, model = ClapFeatureExtractor.from_pretrained(clap_folder), ClapModel.from_pretrained(clap_folder).eval()
    from scipy.signal import resample_poly

    heard = [resample_poly(row.numpy(), 160, 147) for row in noise]
    inputs = extractor(heard, sampling_rate=48_000, return_tensors="pt")
    inputs["is_longer"] = torch.zeros(3, 1, dtype=torch.bool)
    with torch.no_grad():
        pooled = model.audio_model(**inputs).pooler_output
        assert torch.allclose(found, model.audio_projection(pooled), atol=1e-6)


def test_a_distance_of_clap_embeddings(clap_folder: Path, clips: Tensor) -> None:
    distances = Distances(clips, DOMAINS, Clap(str(clap_folder)))
    same, low = distances.of(clips), distances.of(low_of(clips))
    assert {row.metric for row in same} == {"fd_clap"}
    assert same[0].value == pytest.approx(0, abs=1e-6)
    assert low[0].value > 1e-3  # type: ignore[operator]


def test_a_clap_that_is_absent_incomplete_or_broken_is_one_line_with_the_remedy(
    clap_folder: Path, tmp_path: Path
) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(DataError) as caught:
            Clap(str(folder)).embed(torch.zeros(1, 44_100))
        assert "validation.distance.model" in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no CLAP" in refused(tmp_path)
    assert "no CLAP" in str(missing_weights(Distance(embedder="clap", model="someone/absent")))
    folder = tmp_path / "clap"
    shutil.copytree(clap_folder, folder)
    (folder / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in refused(folder)
    shutil.copy(clap_folder / "preprocessor_config.json", folder)
    assert missing_weights(Distance(embedder="clap", model=str(folder))) is None
    (folder / "model.safetensors").write_bytes(b"not a checkpoint at all")
    assert "cannot be read" in refused(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")  # pickles are not looked at
    assert "no model.safetensors" in refused(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    assert "not a CLAP" in refused(folder)


def test_a_clap_with_missing_weights_is_refused_not_left_random(clap_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "clap"
    shutil.copytree(clap_folder, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("audio_projection"))
    save_file(
        {key: value for key, value in weights.items() if key != name}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(DataError, match=f"1 weights are missing, the first {name}"):
        Clap(str(folder)).embed(torch.zeros(1, 44_100))


# the configuration


def test_the_embedder_is_chosen_in_the_configuration(tmp_path: Path) -> None:
    tree = {"data": {"train": "a", "val": "b"}, "codec": {"kind": "wavelet"}}
    assert isinstance(build_embedder(parse(Config, tree, "x").validation.distance), Spectral)
    assert build_embedder(Distance(embedder="off")) is None
    clap = build_embedder(Distance(embedder="clap", model="here"))
    assert isinstance(clap, Clap)
    assert clap.model == "here"
    with pytest.raises(ConfigError, match=r"validation\.distance\.embedder: 'vggish' is none of spectral, clap, off"):
        parse(Config, {**tree, "validation": {"distance": {"embedder": "vggish"}}}, "x")
    (tmp_path / "mine").mkdir()
    assert located({"validation": {"distance": {"model": "mine"}}}, tmp_path) == {
        "validation": {"distance": {"model": str(tmp_path / "mine")}}
    }
    assert located({"validation.distance.model": "laion/x"}, tmp_path) == {"validation.distance.model": "laion/x"}
