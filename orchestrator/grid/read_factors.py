"""The factors of a grid file: standard ones, settings with their values, and the user's own.

``under: {rolloff: on}`` beside a factor's levels: elsewhere the factor stands at its baseline.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.grid.factors import STANDARD, Condition, Factor, Patch, find_level, level_name, read_condition
from orchestrator.sweep_folder.columns import RESERVED
from sagasr.config.faults import Faults
from sagasr.config.parsing import setting_paths
from sagasr.config.patching import leaves, located, patch
from sagasr.config.settings import Config
from sagasr.io.errors import ConfigError, did_you_mean, nearest

KEYS = ("baseline", "levels", "under")
NAME = re.compile(r"(?=.{1,63}$)[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


def read_factors(entries: Mapping[Any, Any], folder: Path) -> dict[str, Factor]:
    """Return the factors of a grid file in ``folder``. Raises ConfigError with a line per fault."""
    factors: dict[str, Factor] = {}
    faults = Faults()
    for key, entry in entries.items():
        with faults.collecting():
            factors[str(key)] = _read_factor(str(key), entry, folder)
    faults.stop()
    for key, entry in entries.items():
        if isinstance(entry, Mapping) and "under" in entry:
            with faults.collecting():
                under = _read_under(str(key), entry["under"], factors)
                factors[str(key)] = replace(factors[str(key)], under=under)
    faults.stop()
    above = {name: set(factor.under) for name, factor in factors.items()}
    for _ in factors:  # by way of others too
        above = {name: parents.union(*(above[parent] for parent in parents)) for name, parents in above.items()}
    faults += [
        f"factors.{name}.under: {name} lies under itself; remove one of the conditions"
        for name, parents in above.items()
        if name in parents
    ]
    faults.stop()
    return factors


def written(entries: Mapping[str, Any], factors: Mapping[str, Factor]) -> dict[str, Any]:
    """Return the entries of a grid file with the user's own factors spelt out, and absolute paths in their patches."""
    spelt: dict[str, Any] = {}
    for name, entry in entries.items():
        keys = entry if isinstance(entry, Mapping) else {"levels": entry}
        if name in STANDARD and isinstance(keys["levels"], list):
            spelt[name] = entry
        else:
            factor = factors[str(name)]
            spelt[name] = {**keys, "baseline": factor.baseline, "levels": dict(factor.levels)}
    return spelt


def _read_factor(name: str, entry: Any, folder: Path) -> Factor:
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"factors.{name}: a factor's name has letters, digits and _ only, and does not begin with a digit; "
            "or it is the path of a setting, such as training.learning_rate"
        )
    if name in RESERVED:
        raise ConfigError(f"factors.{name}: that is a column of the results tables; choose another name")
    if not isinstance(entry, list | Mapping):
        raise ConfigError(f"factors.{name}: expected a list of levels, or 'baseline:' and 'levels:' (found {entry!r})")
    entry = {"levels": entry} if isinstance(entry, list) else entry
    unknown = (key for key in entry if key not in KEYS)
    faults = Faults(f"factors.{name}: unknown key {key!r}{did_you_mean(str(key), KEYS)}" for key in unknown)
    given = entry.get("levels")
    with faults.collecting():
        if not isinstance(given, list):
            levels, usual = _own_levels(name, given, folder), None
        elif name in STANDARD:
            levels = _standard_levels(name, given)
            usual = STANDARD[name].baseline if STANDARD[name].baseline in levels else next(iter(levels))
        else:
            levels, usual = _own_levels(name, _setting_levels(name, given), folder), level_name(given[0])
    faults.stop()
    if "baseline" not in entry:
        if usual is None:
            raise ConfigError(f"factors.{name}.baseline is missing; name one of: {', '.join(levels)}")
        return Factor(name, usual, levels)
    if (baseline := find_level(entry["baseline"], levels)) is None:
        word = level_name(entry["baseline"])
        raise ConfigError(f"factors.{name}.baseline: unknown level {word!r}{did_you_mean(word, levels)}")
    return Factor(name, baseline, levels)


def _standard_levels(name: str, given: list[Any]) -> dict[str, Patch]:
    if not given:
        raise ConfigError(f"factors.{name} is empty; list at least two levels, or remove it")
    standard, levels, faults = STANDARD[name], dict[str, Patch](), Faults()
    for level in map(level_name, given):
        changes = standard.levels.get(level) or standard.other(level)
        if changes is None:
            hint = f" ({standard.hint})" if standard.hint else ""
            faults.append(f"factors.{name}: unknown level {level!r}{did_you_mean(level, standard.levels)}{hint}")
        elif level in levels:
            faults.append(f"factors.{name}: level {level!r} is listed twice; remove one")
        else:
            levels[level] = changes
    faults.stop()
    return levels


def _setting_levels(name: str, given: list[Any]) -> dict[str, Patch]:
    """Return the values of a setting as levels. Its name is its path, or an end of it that no other setting has."""
    known = setting_paths(Config)
    paths = [path for path in known if path == name] or [path for path in known if path.endswith(f".{name}")]
    if not paths:
        hint = nearest(name, {*STANDARD, *known, *(path.rpartition(".")[2] for path in known)})
        raise ConfigError(
            f"factors.{name}: not a standard factor{hint or did_you_mean(name, STANDARD)} "
            "(one of your own is a setting of the configuration with its values, or has 'baseline:' and 'levels:')"
        )
    if len(paths) > 1:
        raise ConfigError(f"factors.{name}: several settings end so; name one of: {', '.join(paths)}")
    if not given:
        raise ConfigError(f"factors.{name} is empty; list at least two values, or remove it")
    if any(isinstance(value, Mapping) for value in given):
        raise ConfigError(f"factors.{name}: expected values of {paths[0]}; for changes give 'baseline:' and 'levels:'")
    levels, faults = dict[str, Patch](), Faults()
    for value in given:
        if (level := level_name(value)) in levels:
            faults.append(f"factors.{name}: level {level!r} is listed twice; remove one")
        levels[level] = patch({}, {paths[0]: value})  # nested: another kind replaces its section
    faults.stop()
    return levels


def _own_levels(name: str, given: Any, folder: Path) -> dict[str, Patch]:
    if not isinstance(given, Mapping) or not given:
        remedy = "give 'levels:' with at least two levels, each with what it changes"
        raise ConfigError(f"factors.{name} is empty; {remedy}")
    levels, faults = dict[str, Patch](), Faults()
    for key, changes in given.items():
        level = level_name(key)
        same = find_level(level, levels)
        if not re.fullmatch(r"(?! )[^,=]{1,60}(?<! )", level) or not level.isprintable():
            faults.append(
                f"factors.{name}: level {level!r} must be 1 to 60 printable characters without ',' and '=', "
                "and no blank at its ends"
            )
        elif same is not None:
            problem = "listed twice" if same == level else f"the same number as {same!r}"
            faults.append(f"factors.{name}: level {level!r} is {problem}; remove one")
        elif not isinstance(changes, Mapping):
            faults.append(f"factors.{name}.levels.{level}: expected 'path: value' lines, or {{}} (found {changes!r})")
        else:
            levels[level] = located(changes, folder)
    if any(path.split(".")[0] == "seed" for changes in levels.values() for path in leaves(changes)):
        faults.append(f"factors.{name}: the seed is not a factor; list it in 'seeds'")
    faults.stop()
    return levels


def _read_under(name: str, given: Any, factors: Mapping[str, Factor]) -> Condition:
    here = f"factors.{name}.under"
    if not isinstance(given, Mapping) or not given:
        expected = "another factor with the levels beside which this one exists, as {rolloff: on}"
        raise ConfigError(f"{here}: expected {expected}")
    return read_condition(given, factors, here)
