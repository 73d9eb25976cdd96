"""Codecs: audio comes back, latents mean what they should, a Stable Audio checkpoint is really loaded or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sagasr.codec import codec as codecs
from sagasr.codec.codec import build_codec, missing_weights
from sagasr.codec.latents import LatentNorm
from sagasr.codec.stable_audio_codecs import empty_autoencoder
from sagasr.config.settings import Codec, Patched, Pqmf, StableAudio, Wavelet, downsampling_ratio, latent_channels
from sagasr.io.errors import DataError
from sagasr.published import weights as checkpoints
from tests.sagasr.model.stable_audio import autoencoder_config, autoencoder_tree, whole_config

LENGTH = 65_536


def noise(channels: int, length: int = LENGTH) -> Tensor:
    return 0.1 * torch.randn(2, channels, length, generator=torch.Generator().manual_seed(length))


def snr_db(reference: Tensor, estimate: Tensor) -> float:
    error = (reference - estimate).double().square().mean()
    return float(10 * torch.log10(reference.double().square().mean() / error))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "codec", [Wavelet(kind="wavelet", levels=5), Pqmf(kind="pqmf", bands=32), Patched(kind="patched", patch=32)]
)
def test_latents_have_the_promised_channels_and_rate(codec: Codec, channels: int) -> None:
    built = build_codec(codec, channels)
    latents = built.encode(noise(channels))
    assert latents.shape == (2, 32 * channels, LENGTH // 32)
    assert (built.latent_channels, built.ratio) == (latent_channels(codec, channels), downsampling_ratio(codec))
    assert (built.latent_channels, built.ratio) == (32 * channels, 32)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("length", [LENGTH, LENGTH + 1, LENGTH - 17])
@pytest.mark.parametrize(
    ("codec", "least_db", "edge"),
    [
        (Wavelet(kind="wavelet", companding=1.0), 120, 0),
        (Wavelet(kind="wavelet", companding=0.5), 100, 0),
        (Wavelet(kind="wavelet", levels=8, wavelet="bior2.2", companding=1.0), 110, 0),
        (Pqmf(kind="pqmf", companding=1.0), 40, 600),
        (Pqmf(kind="pqmf", companding=0.5), 40, 600),
        (Patched(kind="patched", companding=1.0), 200, 0),
    ],
)
def test_audio_of_any_length_comes_back(codec: Codec, least_db: float, edge: int, length: int, channels: int) -> None:
    audio, built = noise(channels, length), build_codec(codec, channels)
    decoded = built.decode(built.encode(audio), length)
    assert decoded.shape == audio.shape
    inside = slice(edge, length - edge)
    assert snr_db(audio[..., inside], decoded[..., inside]) > least_db


def test_pqmf_latents_are_ordered_by_frequency() -> None:
    codec, time = build_codec(Pqmf(kind="pqmf", bands=64), 1), torch.arange(LENGTH) / 44_100
    for hertz, band in [(1_000, 2), (5_000, 14), (10_000, 29), (18_000, 52)]:
        latents = codec.encode(torch.sin(2 * torch.pi * hertz * time)[None, None])
        assert int(latents[0].abs().mean(dim=1).argmax()) == band


def test_companding_brings_quiet_latents_closer_to_loud_ones() -> None:
    audio = noise(1)
    linear = build_codec(Patched(kind="patched", companding=1.0), 1).encode(audio)
    companded = build_codec(Patched(kind="patched", companding=0.5), 1).encode(audio)
    torch.testing.assert_close(companded, linear.sign() * linear.abs().sqrt())


def test_codec_learns_nothing_and_equal_audio_gives_equal_latents() -> None:
    codec = build_codec(Wavelet(kind="wavelet"), 1).train()
    assert not codec.training
    assert not list(codec.parameters())
    assert not codec.encode(noise(1).requires_grad_()).requires_grad
    assert torch.equal(codec.encode(noise(1)), codec.encode(noise(1)))


def test_too_short_audio_is_refused_by_name_of_its_length() -> None:
    with pytest.raises(DataError, match="audio of 100 samples is too short"):
        build_codec(Wavelet(kind="wavelet", levels=8), 1).encode(noise(1, 100))


def test_decoding_more_than_was_encoded_is_a_bug_not_silence() -> None:
    codec = build_codec(Patched(kind="patched", patch=64), 1)
    with pytest.raises(ValueError, match="not 129"):
        codec.decode(codec.encode(noise(1, 128)), 129)


def test_norm_measured_on_latents_gives_zero_mean_and_unit_variance_and_inverts() -> None:
    latents = 3 + 5 * torch.randn(4, 8, 1_000, generator=torch.Generator().manual_seed(0))
    norm = LatentNorm(latents.mean(dim=(0, 2)), latents.std(dim=(0, 2)), torch.ones(latents.shape[1]))
    flat = norm.apply(latents)
    assert flat.mean(dim=(0, 2)).abs().max() < 1e-5
    torch.testing.assert_close(flat.std(dim=(0, 2)), torch.ones(8))
    torch.testing.assert_close(norm.invert(flat), latents)


def test_rows_beyond_the_bound_go_in_groups_and_recordings_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "AT_ONCE", 2 * LENGTH)
    codec, shapes = build_codec(Pqmf(kind="pqmf"), 1), list[tuple[int, ...]]()
    rows = torch.cat([noise(1), 2 * noise(1), 3 * noise(1)])[:5]
    encode, decode = codec.transform.encode, codec.transform.decode
    monkeypatch.setattr(codec.transform, "encode", lambda given: (shapes.append(tuple(given.shape)), encode(given))[1])
    monkeypatch.setattr(codec.transform, "decode", lambda given: (shapes.append(tuple(given.shape)), decode(given))[1])
    latents = codec.encode(rows)
    decoded = codec.decode(latents, LENGTH)
    frames = latents.shape[-1]
    assert shapes == [(2, 1, LENGTH), (2, 1, LENGTH), (1, 1, LENGTH), (2, 64, frames), (2, 64, frames), (1, 64, frames)]
    one_by_one = torch.cat([codec.encode(row[None]) for row in rows])
    torch.testing.assert_close(latents, one_by_one, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(decoded, torch.cat([codec.decode(one[None], LENGTH) for one in one_by_one]))
    shapes.clear()
    codec.encode(noise(1, 4 * LENGTH)[:1])
    assert shapes == [(1, 1, 4 * LENGTH)]


# --- Stable Audio -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """The library's own autoencoder with random weights."""
    config = tmp_path_factory.mktemp("config") / "config.json"
    config.write_text(json.dumps(autoencoder_config()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return empty_autoencoder(config).eval()


@pytest.fixture(scope="module")
def weights(reference: nn.Module) -> dict[str, Tensor]:
    """Its weights, under the names of the real checkpoint."""
    return reference.state_dict()


def stable_audio(folder: Path, tree: dict[str, Any], tensors: dict[str, Tensor], name: str) -> StableAudio:
    (folder / "config.json").write_text(json.dumps(tree))
    if name.endswith("ckpt"):
        torch.save({"state_dict": tensors, "pytorch-lightning_version": "2.1.0", "global_step": 5}, folder / name)
    else:
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)
    return StableAudio(kind="stable-audio", checkpoint=str(folder / name), config=str(folder / "config.json"))


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    others = {"model.model.transformer.layers.0.pre_norm.gamma": torch.ones(3), "conditioner.x": torch.ones(1)}
    return {prefix + key: value for key, value in weights.items()} | (others if prefix else {})


@pytest.mark.parametrize("name", ["model.safetensors", "vae.ckpt"])
@pytest.mark.parametrize(
    "prefix", ["", "autoencoder.", "autoencoder_ema.ema_model.", "pretransform.model.", "diffusion.pretransform.model."]
)
def test_autoencoder_read_back_from_the_real_layouts_gives_the_same_latents(
    reference: nn.Module, tmp_path: Path, prefix: str, name: str
) -> None:
    tree = whole_config() if "pretransform" in prefix else autoencoder_config()
    codec = build_codec(stable_audio(tmp_path, tree, prefixed(reference.state_dict(), prefix), name), 2)
    audio = noise(2, 4_096)
    with torch.no_grad():
        encoded = reference.encoder(audio)  # type: ignore[operator]
        decoded = reference.decoder(encoded[:, :64])  # type: ignore[operator]
    latents = codec.encode(audio)
    assert latents.shape == (2, 64, 2)
    assert torch.equal(latents, encoded[:, :64])  # the mean of the bottleneck, not a sample
    assert torch.equal(latents, codec.encode(audio))
    assert torch.equal(codec.decode(latents, 4_096), decoded)
    assert not any(weight.requires_grad for weight in codec.parameters())


def test_mono_audio_enters_the_stereo_autoencoder_twice(weights: dict[str, Tensor], tmp_path: Path) -> None:
    settings = stable_audio(tmp_path, autoencoder_config(), weights, "model.safetensors")
    mono, stereo, audio = build_codec(settings, 1), build_codec(settings, 2), noise(1, 4_000)
    latents = mono.encode(audio)
    assert torch.equal(latents, stereo.encode(audio.repeat(1, 2, 1)))
    assert latents.shape == (2, 64, 2)
    torch.testing.assert_close(mono.decode(latents, 4_000), stereo.decode(latents, 4_000).mean(dim=1, keepdim=True))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [33, 64, 100])
def test_pieces_of_long_recordings_equal_the_whole(
    weights: dict[str, Tensor], tmp_path: Path, channels: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = build_codec(stable_audio(tmp_path, autoencoder_config(), weights, "model.safetensors"), channels)
    audio = noise(channels, frames * 2_048 - 5)
    latents = codec.encode(audio)
    decoded = codec.decode(latents, audio.shape[-1])
    monkeypatch.setattr(codecs, "AT_ONCE", 32 * 2_048)
    for pieces, whole in (codec.encode(audio), latents), (codec.decode(latents, audio.shape[-1]), decoded):
        assert pieces.shape == whole.shape
        assert (pieces - whole).abs().max() < 1e-5 * whole.std()


def test_the_context_of_a_piece_is_all_that_its_frames_depend_on(
    reference: nn.Module, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """By the gradient: 8 frames to each side when encoding, 10 when decoding; strides and dilations are published."""
    codec = build_codec(stable_audio(tmp_path, autoencoder_config(), weights, "model.safetensors"), 2)
    audio = noise(2, 24 * 2_048)[:1].requires_grad_()
    reference.encoder(audio)[..., 12].sum().backward()  # type: ignore[operator]
    latents = torch.randn(1, 64, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference.decoder(latents)[..., 12 * 2_048 : 13 * 2_048].sum().backward()  # type: ignore[operator]
    assert audio.grad is not None
    assert latents.grad is not None
    heard = audio.grad[0].abs().sum(0).unflatten(0, (24, 2_048)).sum(1).nonzero()[:, 0]
    seen = latents.grad[0].abs().sum(0).nonzero()[:, 0]
    assert (heard.min(), heard.max(), seen.min(), seen.max()) == (12 - 8, 12 + 8, 12 - 10, 12 + 10)
    assert codec.reach == 10


def test_matched_missing_and_unexpected_weights_are_counted_and_printed(
    weights: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_ = weights
    tensors = {key: value for key, value in weights.items() if key != first} | {"extra": torch.ones(1)}
    settings = stable_audio(tmp_path, autoencoder_config(), prefixed(tensors, "autoencoder."), "model.safetensors")
    autoencoder = empty_autoencoder(Path(settings.config))
    found = checkpoints.fit(
        "autoencoder", checkpoints.shapes_of(autoencoder), checkpoints.open_weights(Path(settings.checkpoint), "")
    )
    assert (len(found.sources), found.missing, found.unexpected) == (
        len(weights) - 1, (first,), ("autoencoder.extra",),
    )  # fmt: skip
    assert found.prefix == "autoencoder."
    build_codec(settings, 2)
    printed = capsys.readouterr().err
    assert f"{len(weights) - 1} weights matched" in printed
    assert "1 missing, 1 unexpected" in printed
    assert len(weights) > 100  # so that one missing is within the tolerance


def test_checkpoint_that_fits_less_than_99_percent_is_refused_with_the_way_to_get_it(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    few = dict(list(weights.items())[: len(weights) // 2])
    with pytest.raises(DataError, match=r"at least 99% must match.*stable-audio-open-1\.0.*licence") as caught:
        build_codec(stable_audio(tmp_path, autoencoder_config(), few, "model.safetensors"), 2)
    assert "\n" not in str(caught.value)
    wider = {key: torch.cat([value, value]) for key, value in weights.items()}
    with pytest.raises(DataError, match="of another size than the autoencoder that is configured"):
        build_codec(stable_audio(tmp_path, autoencoder_config(), wider, "model.safetensors"), 2)


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("content", [b"", b"broken", None])
def test_broken_or_missing_checkpoint_is_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(autoencoder_config()))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    settings = StableAudio(kind="stable-audio", checkpoint=str(tmp_path / name), config=str(tmp_path / "config.json"))
    with pytest.raises(DataError, match=r"stable-audio-open-1\.0") as caught:
        build_codec(settings, 2)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert name in str(missing_weights(settings, 1))  # already in the plan


class Evil:
    """A pickled object that would run code when loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("code ran",)


def test_checkpoint_with_code_inside_is_refused_and_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(autoencoder_config()))
    torch.save({"state_dict": {}, "callbacks": Evil()}, tmp_path / "model.ckpt")
    settings = StableAudio(
        kind="stable-audio", checkpoint=str(tmp_path / "model.ckpt"), config=str(tmp_path / "config.json")
    )
    with pytest.raises(DataError, match="holds more than tensors and is not opened"):
        build_codec(settings, 2)
    assert "code ran" not in capfd.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"model": {"encoder": {}}}',
        '{"model": {"pretransform": {"type": "wavelet", "config": null}}}',
        json.dumps({"model": autoencoder_tree() | {"encoder": {"type": "x"}}}),
    ],
)
def test_broken_configuration_of_the_autoencoder_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    settings = StableAudio(
        kind="stable-audio", checkpoint=str(tmp_path / "m.safetensors"), config=str(tmp_path / "config.json")
    )
    with pytest.raises(DataError, match=r"config\.json.*stable-audio-open-1\.0") as caught:
        build_codec(settings, 2)
    assert "\n" not in str(caught.value)


def test_autoencoder_of_another_shape_is_refused_with_both_shapes(weights: dict[str, Tensor], tmp_path: Path) -> None:
    tree = autoencoder_config()
    tree["sample_rate"] = 48_000
    with pytest.raises(DataError, match=r"48000 Hz; wanted 64 every 2048 at 44100 Hz"):
        build_codec(stable_audio(tmp_path, tree, weights, "model.safetensors"), 2)
