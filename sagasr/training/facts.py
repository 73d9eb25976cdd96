"""``model.json`` of a trial folder: what using a trained model takes of its training set."""

from pathlib import Path
from typing import Any

from pydantic import Field

from sagasr.config.parsing import parse
from sagasr.config.settings import Config
from sagasr.config.stages import trained_parts
from sagasr.config.strict import Strict
from sagasr.data.store import Store
from sagasr.io.errors import DataError
from sagasr.io.files import read_json, write_json
from sagasr.io.trial_folder import TrialFolder
from sagasr.plugins.parts import sources


class Facts(Strict):
    """``model.json``: what a trained model needs to know of its training set beside configuration and weights."""

    vocabulary: tuple[str, ...]
    rolloff_regression: dict[str, Any]
    parts: dict[str, str] = Field(default_factory=dict, description="sources of the classes of a user's own")


def write_facts(trial: Path, store: Store, config: Config) -> None:
    """Write ``model.json``, so that a trial folder is all that upsampling needs."""
    facts = Facts(
        vocabulary=store.vocabulary(config.conditions.text.source),
        rolloff_regression=store.meta["rolloff_regression"],
        parts=sources(trained_parts(config)),
    )
    write_json(TrialFolder(trial).model, facts.model_dump(mode="json", exclude_defaults=True))


def read_facts(trial: Path) -> Facts:
    """Return what ``write_facts`` wrote. Raises DataError where it is missing."""
    path = TrialFolder(trial).model
    if not path.is_file():
        raise DataError(
            f"{path}: missing; the training command of this trial given again writes it, a finished training is kept"
        )
    return parse(Facts, read_json(path), str(path))
