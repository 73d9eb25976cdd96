"""Which trained model a path means: a trial folder or a checkpoint, and the parts of a user's own that it needs."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sagasr.config.parsing import parse
from sagasr.config.patching import patch
from sagasr.config.settings import Config, OwnCodec
from sagasr.io.errors import ConfigError, DataError
from sagasr.plugins.parts import identity
from sagasr.training import checkpoint
from sagasr.training.facts import Facts


def locate(path: Path) -> tuple[Path, Path]:
    """Return the trial folder and the checkpoint that ``path`` means. Raises DataError."""
    if (path / checkpoint.MANIFEST).is_file() or path.name.startswith("step-"):
        trial, folder = path.resolve().parent.parent, path
        if not path.is_dir():
            raise DataError(f"{path}: no such checkpoint")
        if not (trial / "config.yaml").is_file():
            raise DataError(f"{path}: lies in no trial folder; config.yaml is missing in {trial}")
        return trial, folder
    if not (path / "config.yaml").is_file():
        raise DataError(f"{path}: not a trial folder; it holds no config.yaml (what sagasr-train --out names does)")
    newest = checkpoint.newest(path / "checkpoints")
    if newest is None:
        raise DataError(f"{path}: no checkpoint yet; its training has not come so far")
    return path, newest


def with_parts(config: Config, facts: Facts, given: Sequence[str]) -> Config:
    """Return the configuration with its parts of a user's own taken from the files ``given``. Raises DataError.

    A trial folder may be anybody's: of what it names, only what is installed or given by the user is run.
    """
    files, used = {Path(part).name: part for part in given}, set[str]()

    def own(family: str, part: str) -> str:
        name = Path(part).name
        if ":" not in part:
            return part
        if name not in files:
            raise DataError(
                f"{family} {name}: it would be run, so name it: {shlex.join(['--part', name])} with the folder in "
                f"which it lies; or install it as an entry point of the group sagasr.{family}s"
            )
        used.add(name)
        key = f"{family} {name}"
        if key in facts.parts and identity(family, files[name]) != facts.parts[key]:
            raise DataError(f"{files[name]}: changed since the model was trained; give the {family} of that time")
        return files[name]

    sampler = {"solver": own("sampler", config.evaluation.sampler.solver)}
    changes: dict[str, Any] = {"evaluation": {"sampler": sampler}}
    if isinstance(config.codec, OwnCodec):
        changes["codec"] = {"part": own("codec", config.codec.part)}
    changes["conditions"] = {"own": [own("conditioner", part) for part in config.conditions.own]}
    if unused := [part for name, part in files.items() if name not in used]:
        named = ", ".join(sorted(used)) or "none"
        raise ConfigError(
            f"--part {unused[0]}: to upsample, the model needs no such part (only: {named}); leave it out"
        )
    return parse(Config, patch(config.model_dump(mode="json"), changes), "--part")
