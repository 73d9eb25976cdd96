"""A training is exact: resumed equals uninterrupted, equal seeds give equal results, and its end is told truthfully."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from sagasr.cli.train import train as command
from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.runtime import Runtime
from sagasr.config.settings import Config, Evaluation, InverseLR
from sagasr.data.batches import Batch
from sagasr.data.encode import encode_store
from sagasr.data.store import Store
from sagasr.evaluation.score_files import read_distances, read_scores
from sagasr.evaluation.validation_set import Validation, summary
from sagasr.io.files import dump_yaml
from sagasr.io.signals import Halt
from sagasr.io.trial_folder import TrialFolder
from sagasr.training import checkpoint
from sagasr.training.harness import FailureRule, Harness
from sagasr.training.module import SagaModule, cooldown_at, rate_at
from sagasr.training.record import cpu_name
from sagasr.training.train import train
from sagasr.training.trial_log import History, read_status
from tests.sagasr.training.trainings import few_recordings, same_training

STEPS = 6
TREE = {
    "audio": {"segment": 8_192},
    "codec": {"kind": "pqmf", "bands": 64},
    "conditions": {"text": {"encoder": {"kind": "words"}}},
    "model": {"embed_dim": 64, "depth": 1, "num_heads": 2, "cond_dim": 64, "preconditioning": "level"},
    "training": {"steps": STEPS, "batch_size": 4, "learning_rate": 2e-3, "schedule": {"warmup": 0.9}},
    "validation": {"every": 3, "clips": 3, "segment": 16_384},
    "evaluation": {"sampler": {"steps": 2, "schedule": "linear"}},
}


class Killed(BaseException):
    """Stands for the power cut: nothing catches it."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration on nine of the shipped recordings."""
    manifest = str(few_recordings(tmp_path_factory.mktemp("recordings")))
    data = {"train": manifest, "val": manifest}
    return parse(Config, {**TREE, "data": data}, "test")


@pytest.fixture(scope="module")
def store(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_store(config, tmp_path_factory.mktemp("encoded"))


@pytest.fixture(scope="module")
def calm(config: Config, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed training."""
    out = tmp_path_factory.mktemp("calm")
    assert train(config, out, store, runtime=Runtime(checkpoint_every=2)).state == "done"
    return out


def test_equal_seeds_give_equal_weights_records_and_scores(
    config: Config, store: Path, calm: Path, tmp_path: Path
) -> None:
    train(config, tmp_path / "again", store, runtime=Runtime(checkpoint_every=5))
    assert same_training(calm, tmp_path / "again")
    other = parse(Config, patch(config.model_dump(mode="json"), {"seed": 1}), "test")
    train(other, tmp_path / "other", store)
    assert not same_training(calm, tmp_path / "other")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_sees_a_gradient_longer_than_clip_norm(
    config: Config, store: Path, tmp_path: Path, precision: str
) -> None:
    def longest(clip_norm: float) -> float:
        """Return the largest gradient norm with which the optimiser stepped."""
        norms: list[float] = []

        def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
            gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
            norms.append(float(torch.nn.utils.get_total_norm([it for it in gradients if it is not None])))

        changes = {"training": {"clip_norm": clip_norm, "precision": precision, "steps": 2}}
        tree = patch(config.model_dump(mode="json"), changes)
        hook = register_optimizer_step_post_hook(note)
        try:
            train(parse(Config, tree, "test"), tmp_path / f"clip-{clip_norm}", store)
        finally:
            hook.remove()
        assert len(norms) == 2
        return max(norms)

    free = longest(0.0)
    assert longest(free / 4) == pytest.approx(free / 4, rel=1e-3)
    assert longest(4 * free) == pytest.approx(free, rel=1e-6)


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_a_killed_training_resumes_bit_for_bit(
    config: Config, store: Path, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    original, alive = SagaModule.training_step, True

    def dies(self: SagaModule, batch: Batch, batch_idx: int) -> torch.Tensor:
        if alive and self.trainer.global_step == killed_at:
            raise Killed
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SagaModule, "training_step", dies)
    with pytest.raises(Killed):
        train(config, tmp_path, store, runtime=Runtime(checkpoint_every=2))
    status = read_status(tmp_path)
    assert status is not None
    assert status.state == "running"
    alive = False
    assert train(config, tmp_path, store, runtime=Runtime(checkpoint_every=2)).state == "done"
    assert same_training(calm, tmp_path)


def test_two_checkpoints_remain_and_the_folder_explains_itself(calm: Path) -> None:
    assert sorted(path.name for path in (calm / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    status = read_status(calm)
    assert status is not None
    assert [device.name for device in status.devices] == [cpu_name()]
    assert (status.state, status.step, status.steps) == ("done", STEPS, STEPS)
    steps = [record["step"] for record in History(calm) if "val/lsd" in record["metrics"]]
    assert steps == [0, 3, 6]
    assert len(list((calm / "audio" / "default").glob("*.flac"))) == 3


def test_scores_say_what_is_odd_and_hold_the_distance_of_every_answer(calm: Path) -> None:
    found = read_distances(calm, "default")
    assert found.keys() == read_scores(calm, "default").keys() == {"model", "low", "shaped_noise", "untrained"}
    for rows in found.values():
        assert [row.domain for row in rows] == ["all", "effects", "music", "speech"]
        assert [(row.metric, row.n, row.clips) for row in rows] == [("fd_spectral", 3, 3)] + 3 * [("fd_spectral", 1, 1)]
        assert rows[0].value is not None
        assert rows[1].value is None  # one window has no covariance
        assert "1 window" in rows[1].reason
    last = next(r for r in History(calm) if r["step"] == STEPS and "val/fd_spectral" in r["metrics"])
    assert last["metrics"]["val/fd_spectral"] == found["model"][0].value
    table = pq.read_table(TrialFolder(calm).scores("default"))
    assert table.column("remark").to_pylist() == ["", "", ""]


def test_one_prediction_that_is_not_finite_fails_the_training(config: Config, store: Path, tmp_path: Path) -> None:
    """The averaged weights, of which predictions are made, are spoilt on disk; the training loss stays sound."""
    out, runtime = tmp_path / "spoilt", Runtime(checkpoint_every=2)

    def halt() -> Halt | None:
        return Halt("asked") if (out / "checkpoints/step-00000002").exists() else None

    train(config, out, store, runtime=runtime, harness=Harness(halt=halt))
    folder = checkpoint.newest(out / "checkpoints")
    assert folder is not None
    state = checkpoint.load(folder)
    for value in state["ema"].values():
        if value.is_floating_point():
            value.fill_(torch.nan)
    shutil.rmtree(folder)
    checkpoint.save(state, folder)
    result = train(config, out, store, runtime=runtime)
    assert (result.state, result.reason) == ("failed", "val LSD is not finite at step 3")


def test_a_mean_over_clips_of_which_one_has_no_score_is_no_mean(config: Config, store: Path) -> None:
    clips = Validation.of(Store.open(store), config)
    audio = clips.low.clone()
    assert math.isfinite(clips.judge(audio).lsd)
    audio[1, 0, 7] = torch.inf
    answer = clips.judge(audio)
    assert math.isnan(answer.lsd)
    assert clips.remarks(audio) == ["", "estimate is not finite", ""]
    told = summary(answer.scores, answer.distances)
    assert "(2 of 3 clips)" in told
    assert "fd_spectral – (1 of 3 clips are not finite)" in told


def test_a_finished_training_is_only_scored_for_new_settings(
    config: Config, store: Path, calm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(calm, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").rglob("*")}
    hard = config.evaluation.model_copy(update={"lfr": "hard"})
    result = train(config, out, store, {"default": config.evaluation, "hard": hard})
    assert result == ("done", "", STEPS)
    assert {path: path.stat().st_mtime_ns for path in (out / "checkpoints").rglob("*")} == before
    assert TrialFolder(out).scores("hard").exists()
    old, new = read_scores(out, "default"), read_scores(out, "hard")
    assert [row["lsd_lf"] for row in new["model"]] < [row["lsd_lf"] for row in old["model"]]
    assert new["low"] == old["low"]
    # The same, had the setting been asked for from the start.
    both = tmp_path / "both"
    train(config, both, store, {"default": config.evaluation, "hard": hard})
    assert read_scores(both, "hard") == new


def test_low_frequency_replacement_brings_back_the_low_band(config: Config, store: Path, tmp_path: Path) -> None:
    variants: Mapping[str, Evaluation] = {
        kind: config.evaluation.model_copy(update={"lfr": kind}) for kind in ("off", "hard", "crossfade")
    }
    train(config, tmp_path, store, variants)
    lsd_lf = {kind: read_scores(tmp_path, kind)["model"][0]["lsd_lf"] for kind in variants}
    low = read_scores(tmp_path, "off")["low"][0]["lsd_lf"]
    assert low is not None
    assert all(lsd_lf[kind] < 0.7 * lsd_lf["off"] for kind in ("hard", "crossfade")), (lsd_lf, low)


def test_a_loss_that_is_not_finite_is_a_failure_with_its_reason(config: Config, store: Path, tmp_path: Path) -> None:
    wild = parse(Config, patch(config.model_dump(mode="json"), {"training.learning_rate": 1e30}), "test")
    result = train(wild, tmp_path, store)
    assert result.state == "failed"
    assert "loss is" in result.reason or "not finite" in result.reason
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.reason) == ("failed", result.reason)


def test_a_training_worse_than_its_input_for_long_is_ended(config: Config, store: Path, tmp_path: Path) -> None:
    harness = Harness(rule=FailureRule(margin=-100.0, checks=2, grace=0.1))
    result = train(config, tmp_path, store, harness=harness)
    assert result.state == "failed"
    assert "above that of the unprocessed input" in result.reason


def test_the_harness_hears_of_each_validation(config: Config, store: Path, tmp_path: Path) -> None:
    heard: list[Mapping[str, float]] = []
    result = train(config, tmp_path, store, harness=Harness(report=heard.append))
    assert (result.state, [metrics["step"] for metrics in heard]) == ("done", [0, 3, 6])
    assert all("val/lsd" in metrics for metrics in heard)


def test_a_folder_goes_on_with_its_own_training_alone(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "mine.yaml", tmp_path / "run"
    path.write_text(dump_yaml(config.model_dump(mode="json")))
    assert command([str(path), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert [f"step {step} of 6" in told for step in (0, 3, 6)] == [True, True, True]
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    for setting, words in (("training.steps=9", "training.steps 6 -> 9"), ("model.depth=3", "model.depth 1 -> 3")):
        assert command([str(path), "--out", str(out), "--set", setting]) == 2
        assert capsys.readouterr().err == f"--out {out}: holds another training ({words}); name another folder\n"
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_a_training_goes_on_where_its_recordings_were_moved_to_but_not_with_others(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("first", "second"):
        few_recordings(tmp_path / place)
        data = {"train": str(tmp_path / place / "manifest.csv"), "val": str(tmp_path / place / "manifest.csv")}
        tree = config.model_dump(mode="json") | {"data": data}
        (tmp_path / place / "mine.yaml").write_text(dump_yaml(tree))
    out = tmp_path / "run"
    assert command([str(tmp_path / "first" / "mine.yaml"), "--out", str(out)]) == 0
    assert command([str(tmp_path / "second" / "mine.yaml"), "--out", str(out)]) == 0
    manifest = tmp_path / "second" / "manifest.csv"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:1] + lines[2:]))  # one to train on less
    capsys.readouterr()
    assert command([str(tmp_path / "second" / "mine.yaml"), "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"--out {out}: the train recordings, or what is said of them, changed since this training began; "
        "name another folder\n"
    )


def test_nothing_in_a_training_folder_is_a_pickle(calm: Path) -> None:
    kinds = {path.suffix for path in calm.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".jsonl", ".yaml", ".parquet", ".flac"}
    json.loads((calm / "status.json").read_text())


def test_the_learning_rate_follows_the_published_schedule(config: Config) -> None:
    expected = {0: 0.010, 10: 0.105, 100: 0.638, 500: 0.993, 26_000: 0.987}
    for step, factor in expected.items():
        assert rate_at(step, InverseLR()) == pytest.approx(factor, abs=6e-4)
    assert [cooldown_at(step, 10, 0.5) for step in (0, 5, 6, 10)] == [1.0, 1.0, 0.8, 0.0]
    assert cooldown_at(9, 10, 0.0) == 1.0
