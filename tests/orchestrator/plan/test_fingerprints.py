"""Fingerprints are frozen: an update that changes one by accident would train every finished grid again.

``fingerprints.json`` holds what configurations had on the day it was written. A vector may only change together with
``RESULT_VERSION``, when the same configuration and data really give other numbers.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.plan import identity
from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import Config
from sagasr.config.stages import score_stage
from sagasr.io.fingerprint import RESULT_VERSION, fingerprint, seed_of

VECTORS = Path(__file__).parents[1] / "fingerprints.json"
BASE: dict[str, Any] = {"data": {"train": "m.csv", "val": "m.csv"}, "codec": {"kind": "wavelet"}}
CHANGES: dict[str, dict[str, Any]] = {
    "every default": {},
    "steps": {"training.steps": 800},
    "text off": {"conditions.text.source": "off"},
    "words": {"conditions.text.encoder": {"kind": "words", "max_tokens": 8}},
    "roll-off off": {"conditions.rolloff": "off"},
    "no latent dropout": {"conditions.low.dropout": 0},
    "small model": {"model": {"embed_dim": 128, "depth": 2, "num_heads": 2, "cond_dim": 128}},
    "pqmf": {"codec": {"kind": "pqmf", "bands": 32}},
    "uniform times": {"training.time_sampler": "uniform"},
    "hard replacement": {"evaluation.lfr": "hard"},
    "25 steps, raw weights": {"evaluation.sampler.steps": 25, "evaluation.weights": "raw"},
    "fewer clips": {"validation.clips": 8},
    "validated more often": {"validation.every": 100},
    "seed": {"seed": 3},
}


def found(changes: dict[str, Any]) -> dict[str, str]:
    config = parse(Config, patch(BASE, changes), "vector")
    return {"train": fingerprint(identity(config)), "score": fingerprint(score_stage(config))}


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    return dict(json.loads(VECTORS.read_text()))


@pytest.mark.parametrize("name", CHANGES)
def test_a_configuration_keeps_the_fingerprints_it_had(vectors: dict[str, Any], name: str) -> None:
    assert vectors["version"] == RESULT_VERSION, "a new version of the results needs new vectors"
    assert found(CHANGES[name]) == vectors["configurations"][name]


def test_hashing_and_seeds_keep_their_values(vectors: dict[str, Any]) -> None:
    tree = {"b": [1, 2.0, 2.5, None, True], "a": {"é": "ü", "1": "x"}}
    assert fingerprint(tree) == vectors["tree"]
    assert seed_of("order", 0, 1.5) == vectors["seed"]


def test_a_value_at_its_default_is_as_good_as_absent() -> None:
    full = parse(Config, BASE, "vector").model_dump(mode="json")
    config = parse(Config, full, "vector")  # every key written out
    plain = found({})
    assert {"train": fingerprint(identity(config)), "score": fingerprint(score_stage(config))} == plain


def test_each_change_touches_its_own_stage_alone(vectors: dict[str, Any]) -> None:
    plain = vectors["configurations"]["every default"]
    scored = {"hard replacement", "25 steps, raw weights", "fewer clips"}
    for name, one in vectors["configurations"].items():
        assert (one["train"] != plain["train"]) == (name not in scored | {"every default"}), name
        assert (one["score"] != plain["score"]) == (name in scored), name
