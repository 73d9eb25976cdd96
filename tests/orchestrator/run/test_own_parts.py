"""Parts of a user's own: named in a configuration, checked, planned, trained with, scored by, and used."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import torch

from orchestrator.cli.encode import main as encode
from orchestrator.cli.sweep import sweep
from orchestrator.grid.read import read_space
from orchestrator.plan.plan import make_plan
from orchestrator.plan.preflight import preflight
from sagasr.cli.train import read, train
from sagasr.cli.upsample import upsample
from sagasr.codec.codec import build_codec
from sagasr.config.patching import patch
from sagasr.config.settings import Patched, Pqmf, Wavelet, downsampling_ratio, latent_channels
from sagasr.data.corpus import recordings, store_identity
from sagasr.data.encoded_record import clip_gain
from sagasr.io.errors import ConfigError
from sagasr.io.fingerprint import fingerprint
from sagasr.model.guidance import guidance_branches
from sagasr.model.saga import build_model
from sagasr.plugins.parts import load
from sagasr.testing import check_codec, check_conditioner, check_embedder, check_metric, check_sampler
from tests import own_parts
from tests.small import BASE

OWN = {
    "validation.metrics": ["own_parts.py:Loudness"],
    "validation.distance.embedder": "own_parts:Levels",
    "evaluation.sampler.solver": "own_parts.py:Midpoint",
}
FOLDED = {"kind": "own", "part": "own_parts.py:Folded", "ratio": 32, "latent_channels": 32}
BRIGHT = {"conditions.own": ["own_parts.py:Brightness"]}
TOLD = {"baseline": "nothing", "levels": {"nothing": {}, "brightness": BRIGHT}}


def study(make_grid, changes: dict = OWN, **grid: object) -> Path:
    """Write a study with the parts beside its grid; return the grid's path."""
    path = make_grid(patch(BASE, changes), **grid)
    shutil.copyfile(own_parts.__file__, path.parent / "own_parts.py")
    return path


def test_parts_that_keep_their_contract_pass_its_check():
    check_metric(own_parts.Loudness())
    check_embedder(own_parts.Levels())
    check_sampler(own_parts.Midpoint())
    check_conditioner(own_parts.Brightness())
    check_codec(own_parts.Folded(2), ratio=32, latent_channels=64, channels=2)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "codec", [Wavelet(kind="wavelet", levels=10), Pqmf(kind="pqmf", bands=32), Patched(kind="patched", patch=16)]
)
def test_our_own_codecs_keep_the_contract(codec, channels):
    stated = {"ratio": downsampling_ratio(codec), "latent_channels": latent_channels(codec, channels)}
    check_codec(build_codec(codec, channels).transform, channels=channels, **stated)


def test_parts_that_break_their_contract_are_told_what_does_not_hold():
    class Backwards(own_parts.Loudness):
        better = "higher"

    class Still(own_parts.Midpoint):
        def sample(self, velocity_at, noise, times):
            return noise

    class Mixing(own_parts.Levels):
        def embed(self, windows):
            return super().embed(windows) - super().embed(windows).mean(0)

    with pytest.raises(AssertionError, match="scores worse than noise"):
        check_metric(Backwards())
    with pytest.raises(AssertionError, match="eight times the steps"):
        check_sampler(Still())
    with pytest.raises(AssertionError, match="depends on the other windows"):
        check_embedder(Mixing())


class Curved(own_parts.Folded):
    """Latents that do not grow with the audio, as those of most neural codecs."""

    def encode(self, audio):
        return super().encode((20 * audio).asinh())

    def decode(self, latents):
        return super().decode(latents).sinh() / 20


def codec_that(**methods):
    return type("Broken", (own_parts.Folded,), methods)(1)


def folded(audio):
    return own_parts.Folded(1).encode(audio)


def unfolded(latents):
    return own_parts.Folded(1).decode(latents)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (
            {"encode": lambda self, audio: folded(audio)[:, :16]},
            r"has latents \[2, 16, 2048\], not the \[2, 32, 2048\]",
        ),
        ({"encode": lambda self, audio: folded(audio).double()}, "latents are torch.float64"),
        ({"encode": lambda self, audio: folded(audio.mul_(1.5))}, "the audio was changed"),
        ({"encode": lambda self, audio: folded(audio / audio.abs().max())}, "latents of silence are no numbers"),
        ({"encode": lambda self, audio: folded(audio) + torch.rand(1)}, "equal audio has unequal latents"),
        ({"encode": lambda self, audio: folded(audio - audio.mean(0))}, "depend on the other rows"),
        ({"encode": Curved(1).encode}, "state linear: false"),
        ({"encode": lambda self, audio: folded(audio) * torch.linspace(1, 2, audio.shape[-1] // 32)}, "a crop of the"),
        ({"decode": lambda self, latents: unfolded(latents)[..., 1:]}, "not to the audio's"),
        ({"decode": lambda self, latents: unfolded(latents.mul_(1.5))}, "the latents were changed"),
        ({"decode": lambda self, latents: -unfolded(latents)}, "further from the audio than silence"),
    ],
)
def test_a_broken_codec_is_told_what_does_not_hold(methods, expected):
    with pytest.raises(AssertionError, match=expected):
        check_codec(codec_that(**methods), ratio=32, latent_channels=32)


def test_a_codec_that_brings_each_recording_to_one_level_has_no_crops():
    levelled = codec_that(
        encode=lambda self, audio: folded(audio) / audio.std(dim=(1, 2), keepdim=True).clamp(1e-3),
        decode=lambda self, latents: 0.1 * unfolded(latents),
    )
    with pytest.raises(AssertionError, match="a crop of the latents is not what the crop has"):
        check_codec(levelled, ratio=32, latent_channels=32, linear=False)


def test_a_codec_that_is_not_linear_says_so_and_its_audio_keeps_its_level(make_grid):
    check_codec(Curved(1), ratio=32, latent_channels=32, linear=False)
    folder = study(make_grid, {"codec": {**FOLDED, "linear": False}}).parent
    quiet = 0.001 * torch.tensor([[1.0, -1.0]]).repeat(1, 50).numpy()  # and no offset, which is not heard
    data = ["data.train=manifest.csv", "data.val=manifest.csv"]
    assert clip_gain(read(folder / "base.yaml", data), quiet) == 1
    assert clip_gain(read(folder / "base.yaml", [*data, "codec.linear=true"]), quiet) == pytest.approx(100)


@pytest.mark.parametrize(
    ("describe", "expected"),
    [
        (lambda low: low.mean((1, 2)), r"says \[3\] of audio"),
        (lambda low: low.mean(2), r"says \[3, 2\] of audio"),  # one per channel
        (lambda low: low.square().mean((1, 2)).log()[:, None], "no number; of silence"),
        (lambda low: 1e4 * low.abs().mean((1, 2))[:, None], "bring it to about -1 to 1"),
        (lambda low: low.mul_(2).mean((1, 2))[:, None], "the audio was changed"),
        (lambda low: torch.rand(len(low), 1), "something else of equal audio"),
        (lambda low: (low - low.mean(0)).abs().mean((1, 2))[:, None], "depends on the other rows"),
    ],
)
def test_a_broken_condition_is_told_what_does_not_hold(describe, expected):
    broken = type("Broken", (), {"size": 1, "describe": staticmethod(describe)})
    with pytest.raises(AssertionError, match=expected):
        check_conditioner(broken())


def test_a_model_trained_and_scored_with_them_upsamples_with_the_files_that_it_is_given(make_grid, monkeypatch, capsys):
    folder = study(make_grid, {**OWN, **BRIGHT, "codec": FOLDED, "conditions.text.source": "off"}).parent
    monkeypatch.chdir(folder)
    given = ["--set", "data.train=manifest.csv", "--set", "data.val=manifest.csv"]
    assert train(["base.yaml", "--out", "run", *given]) == 0
    assert "loudness" in capsys.readouterr().out
    scores = pd.read_parquet(folder / "run" / "scores" / "default.parquet")
    assert scores["loudness"].notna().all()
    distances = pd.read_parquet(folder / "run" / "scores" / "distances-default.parquet")
    assert set(distances["metric"]) == {"fd_levels"}
    command = ["a.flac", "out.flac", "--checkpoint", "run"]
    assert upsample(command) == 2  # the folder may be anybody's
    assert "install it as an entry point" in capsys.readouterr().err
    assert not (folder / "out.flac").exists()
    moved = folder.parent / "own_parts.py"
    (folder / "own_parts.py").rename(moved)
    parts = [word for name in ("Folded", "Brightness", "Midpoint") for word in ("--part", f"{moved}:{name}")]
    assert upsample([*command, *parts]) == 0
    assert soundfile.info(folder / "out.flac").frames == 16_384
    assert upsample(["a.flac", "less.flac", *command[2:], *parts[:2], *parts[4:]]) == 2
    assert "conditioner own_parts.py:Brightness: it would be run" in capsys.readouterr().err
    assert upsample(["a.flac", "more.flac", *command[2:], *parts, "--part", "nothere.py:X"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("--part nothere.py:X: to upsample, the model needs no such part (only: own_parts.py:")
    moved.write_text(moved.read_text() + "\n# another remark\n")
    assert upsample([*command, *parts]) == 2
    assert f"{moved}:Folded: changed since the model was trained" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.cluster
def test_a_sweep_compares_a_condition_with_none_in_the_latents_of_an_own_codec(make_grid, monkeypatch):
    fast = {"training.learning_rate": 0.01, "training.schedule.warmup": 0}
    grid = study(make_grid, {"codec": FOLDED, **fast}, factors={"told": TOLD}, seeds=[0])
    monkeypatch.chdir(grid.parent)
    assert sweep(["grid.yaml", "--storage", "sweeps", "--quiet"]) == 0
    rows = pd.read_parquet("sweeps/trial-run/results/replicates.parquet").set_index("told")
    assert list(rows["status"]) == ["done", "done"]
    assert rows.loc["nothing", "lsd"] != rows.loc["brightness", "lsd"]
    trial = f"sweeps/trial-run/trials/{rows.loc['brightness', 'trial']}"
    parts = ["--part", "own_parts.py:Folded", "--part", "own_parts.py:Brightness"]
    assert upsample(["a.flac", "out.flac", "--checkpoint", trial, *parts]) == 0
    assert soundfile.info("out.flac").frames == 16_384


def test_a_condition_adds_a_token_and_leaves_the_rest_of_a_model_as_it_is(make_grid):
    folder = study(make_grid, {"conditions.text.source": "off"}).parent
    data = ["data.train=manifest.csv", "data.val=manifest.csv"]
    plain = read(folder / "base.yaml", data)
    told = read(folder / "base.yaml", [*data, f"conditions.own=[{folder / 'own_parts.py'}:Brightness]"])
    models = build_model(plain), build_model(told)
    weights = [dict(model.named_parameters()) for model in models]
    assert {*weights[1]} - {*weights[0]} == {"own.project.0.weight", "own.project.0.bias"}
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    guidance = plain.evaluation.sampler.guidance
    assert [len(guidance_branches(it.conditions, guidance)) for it in (plain, told)] == [2, 3]  # guided as a text is

    low = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(0))
    inputs = type("Inputs", (), {})()
    inputs.text, inputs.rolloff_hz, inputs.seconds = models[0].prepare(["", ""]), torch.full((2, 2), 8e3), None
    before, after = (model.condition(low, inputs).cross for model in models)
    assert torch.equal(after[:, :-1], before)
    heard = build_codec(told.codec, 1).decode(low, 8_192)
    token = models[1].own.project[0](own_parts.Brightness().describe(heard))
    torch.testing.assert_close(after[:, -1], token)
    assert {*models[1].state_dict()} - {*models[0].state_dict()} == {"own.project.0.weight", "own.project.0.bias"}


def test_what_is_trained_with_an_own_part_depends_on_what_its_file_says_and_nothing_else_does(make_grid, tmp_path):
    grid = study(make_grid, {"codec": FOLDED}, factors={"told": TOLD}, seeds=[0])
    other = grid.parent / "other.py"
    shutil.copyfile(own_parts.__file__, other)
    told = patch({"told": TOLD}, {"told.levels.brightness": {"conditions.own": ["other.py:Brightness"]}})

    def ids(path):
        rows = make_plan(read_space(path, factors=told)).replicates
        config = read(path.parent / "base.yaml", ["data.train=manifest.csv", "data.val=manifest.csv"])
        return [row.trial for row in rows], fingerprint(store_identity(config, recordings(config)))

    def change(path):
        path.write_text(path.read_text() + "\n# another remark\n")

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(grid.parent)
        (nothing, brightness), store = ids(grid)
        change(other)
        assert (again := ids(grid))[1] == store
        assert again[0][0] == nothing
        assert again[0][1] != brightness
        moved = tmp_path / "moved"
        shutil.copytree(grid.parent, moved)
        patched.chdir(moved)
        assert ids(moved / "grid.yaml") == again
        change(moved / "own_parts.py")
        both, encoded = ids(moved / "grid.yaml")
        assert not {*both} & {*again[0]}
        assert encoded != store


def test_a_changed_codec_encodes_anew_with_what_its_file_says_now(make_grid, monkeypatch):
    folder = study(make_grid, {"codec": FOLDED}).parent
    monkeypatch.chdir(folder)
    command = ["manifest.csv", "--config", "base.yaml", "--store", "stores", "--workers", "1"]
    assert encode(command) == encode(command) == 0
    (first,) = Path("stores").iterdir()
    source = Path("own_parts.py").read_text()
    changed = source.replace("return audio.unflatten(", "return 0.5 * audio.unflatten(")
    changed = changed.replace("return latents.unflatten(", "return 2 * latents.unflatten(")
    Path("own_parts.py").write_text(changed)
    assert encode(command) == 0
    (second,) = {*Path("stores").iterdir()} - {first}
    levels = [pd.read_json(it / "meta.json", typ="series")["norm"]["std"][0] for it in (first, second)]
    assert levels[1] == pytest.approx(levels[0] / 2, rel=1e-3)


def test_a_plan_with_them_loads_torch_only_if_they_do(make_grid):
    grid = study(make_grid, {"codec": FOLDED}, factors={"told": TOLD})
    source = grid.parent / "own_parts.py"
    source.write_text("class Folded" + source.read_text().partition("class Folded")[2])
    program = (
        "import sys; from pathlib import Path; from orchestrator.plan.plan import make_plan; "
        "from orchestrator.plan.preflight import preflight; from orchestrator.grid.read import read_space; "
        f"plan = make_plan(read_space(Path({str(grid)!r}))); counts = preflight(plan.cells, 'grid', build=()); "
        "print(sorted(one.tokens[1] for one in counts.values()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stdout == "[18, 19] False\n", done.stderr


def test_what_an_installed_package_offers_is_named_by_its_entry_point(make_grid, tmp_path, monkeypatch):
    package = tmp_path / "installed"
    (package / "mine-1.dist-info").mkdir(parents=True)
    (package / "mine-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    shutil.copyfile(own_parts.__file__, package / "mine_of_a_package.py")
    (package / "mine-1.dist-info" / "entry_points.txt").write_text(
        "[sagasr.codecs]\nfolded = mine_of_a_package:Folded\nlost = mine_of_a_package:Lost\n"
        "[sagasr.conditioners]\nbrightness = mine_of_a_package:Brightness\n"
    )
    monkeypatch.syspath_prepend(str(package))
    levels = {"nothing": {}, "brightness": {"conditions.own": ["brightness"]}}
    factors = {"told": {"baseline": "nothing", "levels": levels}}
    plan = make_plan(read_space(make_grid(patch(BASE, {"codec": {**FOLDED, "part": "folded"}}), factors=factors)))
    assert len(preflight(plan.cells, "grid.yaml")) == 2
    assert load("codec", "folded", 1).encode(torch.zeros(1, 1, 64)).shape == (1, 32, 2)
    with pytest.raises(ConfigError, match=r"codec lost: cannot be imported \(AttributeError"):
        load("codec", "lost", 1)


def test_a_plan_knows_which_way_they_are_good_and_may_be_judged_by_one(make_grid):
    plan = make_plan(read_space(study(make_grid, early_stopping={"metric": "val/loudness"})))
    assert plan.tree["metric"] == {"name": "loudness", "better": "lower", "delta": None}
    assert plan.tree["metrics"] == [{"name": "loudness", "better": "lower", "unit": "dB"}]


def test_what_a_part_says_is_part_of_what_it_scored_and_where_it_lies_is_not(make_grid, tmp_path):
    grid = study(make_grid)
    before = make_plan(read_space(grid))
    moved = tmp_path / "moved"
    shutil.copytree(grid.parent, moved)
    assert make_plan(read_space(moved / "grid.yaml")).hash == before.hash
    with (moved / "own_parts.py").open("a") as source:
        source.write("\n# another remark\n")
    after = make_plan(read_space(moved / "grid.yaml"))
    assert {trial.id for trial in after.trials} == {trial.id for trial in before.trials}
    assert not {row.id for row in after.replicates} & {row.id for row in before.replicates}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"validation.metrics": ["loudness"]}, "metrics: 'loudness' is not installed, and not FILE.py:CLASS"),
        ({"validation.metrics": ["own_parts.py:Loundess"]}, "no class 'Loundess' there; did you mean 'Loudness'?"),
        ({"validation.metrics": ["absent.py:Loudness"]}, "cannot be imported (FileNotFoundError"),
        ({"validation.metrics": ["own_parts.py:Midpoint"]}, "Midpoint has no name, unit, better, score"),
        ({"validation.distance.embedder": "spectrl"}, "none of spectral, clap, off"),
        ({"evaluation.sampler.solver": "eulr"}, "did you mean 'euler'?"),
        ({"codec": {**FOLDED, "part": "folded"}}, "codec.part: 'folded' is not installed, and not FILE.py:CLASS"),
        ({"codec": {**FOLDED, "part": "own_parts.py:Foldd"}}, "no class 'Foldd' there; did you mean 'Folded'?"),
        ({"codec": {**FOLDED, "part": "own_parts.py:Brightness"}}, "Brightness has no encode, decode"),
        ({"codec": {**FOLDED, "ratio": 48}}, "codec.ratio: 48 is none of 1, 2, 4"),
        ({"codec": {**FOLDED, "linear": False, "companding": 0.5}}, "companding needs a linear codec"),
        ({"conditions.own": ["own_parts.py:Folded"]}, "Folded has no size, describe"),
        ({"conditions.own": ["own_parts.py:Brightness"] * 2}, "conditions.own: names a class twice"),
    ],
)  # fmt: skip
def test_a_part_that_cannot_be_used_is_refused_before_anything_runs(changes, expected, make_grid):
    with pytest.raises(ConfigError) as refused:
        make_plan(read_space(study(make_grid, changes)))
    assert len(str(refused.value).splitlines()) == 1
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "written", "expected"),
    [
        ({"codec": {**FOLDED, "latent_channels": 31}}, "", "not the [2, 31, 2048] that ratio and latent_channels"),
        ({"codec": {**FOLDED, "ratio": 64}}, "", "not the [2, 32, 1024] that ratio and latent_channels state"),
        ({"codec": FOLDED}, "Folded.encode = lambda self, audio: audio[0] + audio", "has latents [2, 1, 65536]"),
        ({"codec": FOLDED}, "Folded.encode = lambda self: None", "breaks down in check_codec (TypeError: "),
        ({"codec": FOLDED}, "Folded.__init__ = lambda self: None", "Folded: cannot be made (TypeError: "),
        (BRIGHT, "Brightness.describe = lambda self, low: 1 / 0", "check_conditioner (ZeroDivisionError: division by"),
        (BRIGHT, "def describe(self, low): assert False\nBrightness.describe = describe", "(AssertionError: "),
        (BRIGHT, "Brightness.size = 3", "Brightness: says [3, 1] of audio [3, 1, 44100], not [3, 3]"),
    ],
)  # fmt: skip
def test_a_part_that_breaks_its_contract_is_refused_in_one_line(changes, written, expected, make_grid):
    grid = study(make_grid, changes, factors={"lfr": ["off", "hard"]})
    source = grid.parent / "own_parts.py"
    source.write_text(f"{source.read_text()}\n{written}\n")
    plan = make_plan(read_space(grid))
    with pytest.raises(ConfigError) as refused:
        preflight(plan.cells, "grid.yaml")
    assert len(str(refused.value).splitlines()) == 1
    assert expected in str(refused.value)


# ------------------------------------------------------------------------------------------- on a GPU that is not there

WINDOWED = """
import functools
import torch


class Windowed(torch.nn.Module):
    size = 1

    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.ones(1))
        self.kept = None

    def describe(self, low):
        window = WINDOW
        return (self.gain * window * low[..., :64].abs().amax(1)).mean(1, keepdim=True)


KEPT = {}


@functools.cache
def hann(device):
    KEPT[str(device)] = torch.hann_window(64, device=device)
    return KEPT[str(device)]


class Mixed:
    def __init__(self, channels):
        self.turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]

    def encode(self, audio):
        turn = TURN
        return turn @ audio.unflatten(-1, (-1, 32)).movedim(-1, 2).flatten(1, 2)

    def decode(self, latents):
        turn = TURN
        return (turn.T @ latents).unflatten(1, (1, 32)).movedim(2, -1).flatten(-2)


class Noisy:
    def sample(self, velocity_at, noise, times):
        point = noise
        for now, then in zip(times.tolist(), times.tolist()[1:]):
            point = point + (then - now) * velocity_at(point, now) + BIAS
        return point
"""
RIGHT = {"WINDOW": "torch.hann_window(64, device=low.device)", "TURN": "self.turn.to(audio.device)", "BIAS": "0"}
PARTS_ON_GPU = {
    "conditions.own": ["windowed.py:Windowed"],
    "codec": {**FOLDED, "part": "windowed.py:Mixed"},
    "evaluation.sampler.solver": "windowed.py:Noisy",
}


def planned(make_grid, changes: dict, **written: str) -> int:
    """Plan a study with parts that are right but for what is ``written``; return the command's exit code."""
    grid = make_grid(patch(BASE, changes), factors={"lfr": ["off", "hard"]})
    source = WINDOWED
    for name, value in (RIGHT | written).items():
        source = source.replace(name, value)
    source = source.replace("to(audio.device)\n        return (turn.T", "to(latents.device)\n        return (turn.T")
    (grid.parent / "windowed.py").write_text(source)
    return sweep([str(grid), "--plan"])


@pytest.mark.parametrize(
    ("family", "written", "expected"),
    [
        ("conditions.own", {"WINDOW": "torch.hann_window(64)"}, "make or move it to the device of the audio"),
        ("conditions.own", {"WINDOW": "torch.ones(1).expand(64).clone()"}, "on cuda (line 16)"),
        ("codec", {"TURN": "self.turn"}, "make or move it to the device of the "),
        ("evaluation.sampler.solver", {"BIAS": "1e-9 * torch.ones(noise.shape)"}, "to the device of the noise"),
    ],
)
def test_a_part_that_makes_a_tensor_on_the_cpu_is_refused_while_planning(family, written, expected, make_grid, capsys):
    assert planned(make_grid, {family: PARTS_ON_GPU[family]}, **written) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "mixes a tensor on the CPU with " in told
    assert expected in told


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"WINDOW": "hann(low.device)"},
        {"WINDOW": "self.gain.new_ones(64)"},
        {"WINDOW": "torch.ones(64, device=low.device) if low.max() > 9 else torch.ones(64, device=low.device)"},
        {"WINDOW": "torch.from_numpy(low.cpu().numpy()[0, 0, :64] * 0).to(low.device)"},
    ],
    ids=["made there", "made there once", "of a buffer", "that depends on numbers", "by numpy"],
)
def test_parts_that_keep_to_the_device_or_cannot_be_tried_are_planned(written, make_grid, capsys):
    assert planned(make_grid, PARTS_ON_GPU, **written) == 0
    assert capsys.readouterr().err == ""


def test_a_tensor_that_a_function_of_the_part_keeps_is_not_met_again_by_real_ones(tmp_path):
    (tmp_path / "windowed.py").write_text(WINDOWED.replace("WINDOW", "hann(low.device)"))
    part = load("conditioner", f"{tmp_path / 'windowed.py'}:Windowed")
    check_conditioner(part)
    module = sys.modules[type(part).__module__]
    assert module.hann.cache_info().currsize == 0
    assert module.KEPT.keys() == {"cpu"}
