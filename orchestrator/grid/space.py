"""A grid file as a checked ``SearchSpace``, and its expansion into cells. Loads neither torch nor ray.

The stage of a factor is never declared: a factor whose patches stay under ``evaluation`` belongs to the eval stage, any
other to the train stage. ``where`` is a list of rules that every cell of the design must keep::

    where:
      - {if: {size: full}, then: {text: caption, rolloff: on}}     # the full size only for these
      - {not: {text: off, rolloff: off}}                           # never both off
      - {if: {size: full}, then: {latent_dropout: [off, 0.1]}}     # a list means any of them

``under: {rolloff: on}`` beside a factor's levels: elsewhere the factor stands at its baseline. Cells that are equal
whatever such a factor says (``sagasr.config.acting``) are one cell, declared or not.
"""

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from orchestrator.grid.factors import STANDARD, Patch, find_level, level_name, pairs
from orchestrator.grid.fractional import Fraction, fraction
from orchestrator.sweep_folder.columns import RESERVED
from orchestrator.sweep_folder.design import Promote, Step
from orchestrator.sweep_folder.names import Levels, cell_name
from sagasr.config.settings import (
    IDLE,
    SHIPPED_RECORDINGS,
    SIZES,
    Config,
    Data,
    Runtime,
    Strict,
    acting,
    leaves,
    located,
    parse,
    patch,
    scored_on,
    setting_paths,
)
from sagasr.io.errors import ConfigError, did_you_mean, nearest
from sagasr.io.files import read_yaml
from sagasr.metrics.table import METRICS

MAX_CELLS = 10_000
MAX_PRODUCT = 1_000_000  # cells looked at before `where` leaves some out
BASE_NAME = "base.yaml"  # of the resolved base, beside the resolved grid

T = TypeVar("T")
Stage = Literal["train", "eval"]


# --------------------------------------------------------------------------------------------- what the file may say


class EarlyStopping(Strict):
    """When to stop: ``blocks`` launches no more seeds once every question is decided; ``asha`` is a search."""

    policy: Literal["blocks", "asha", "none"] = "blocks"
    metric: str = "val/lsd"
    delta: float | None = Field(0.05, gt=0, description="smallest difference that matters; only LSDs have a default")
    spending: Literal["pocock", "obrien-fleming"] = "pocock"
    grace: int = Field(3, ge=0, description="validations of a trial before any rule may stop it")
    margin: float = Field(
        0.5, ge=0, description="a trial fails when its metric stays this much worse than the low input's …"
    )
    patience: int = Field(3, ge=1, description="… for so many validations in a row")
    reduction: float = Field(4, gt=1, description="asha: one in so many trials goes on at each rung")

    @model_validator(mode="before")
    @classmethod
    def _in_its_own_unit(cls, tree: Any) -> Any:
        """What matters of an LSD says nothing of another metric."""
        if isinstance(tree, Mapping) and not str(tree.get("metric", "val/lsd")).startswith("val/lsd"):
            return {"delta": None, **tree}
        return tree


class Budget(Strict):
    max_gpu_hours: float | None = Field(None, gt=0, description="refuse, or ask, before spending more")
    price_per_gpu_hour: float | None = Field(
        None, gt=0, description="in any currency: plan and report then speak of money"
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.max_gpu_hours is None and self.price_per_gpu_hour is None:
            raise ValueError("is empty; give max_gpu_hours, price_per_gpu_hour or both")
        return self


class Tracking(Strict):
    uri: str = Field(min_length=1, description="MLflow tracking URI; by default a sqlite file beside the storage")


class GridFile(Strict):
    """The typed part of a grid file; what speaks of levels (factors, ladder, where, promote) is read below."""

    include: None = Field(None, description="another grid, whose keys hold where this one has none of its own")
    name: str
    question: str = ""
    base: str = Field(min_length=1)
    data: Data | None = Field(None, examples=["{train: train.csv, val: val.csv}"])
    factors: dict[str, Any]
    design: Literal["full", "one-at-a-time", "ladder", "fractional"] = "full"
    resolution: int | None = Field(None, ge=3, le=8)
    ladder: tuple[dict[str, Any], ...] = ()
    where: tuple[dict[str, Any], ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = (0, 1, 2)
    early_stopping: EarlyStopping = Field(EarlyStopping(), examples=["{policy: none}"])
    resources: dict[str, Runtime] = Field(default_factory=dict)
    budget: Budget | None = Field(None, examples=["{max_gpu_hours: 40}"])
    tracking: Tracking | None = Field(None, examples=["{uri: http://HOST:5000}"])
    storage: str = "./sweeps"
    promote: dict[str, Any] | None = None

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
            raise ValueError("use 1 to 63 of the characters a-z, 0-9 and -")
        return name

    @field_validator("storage")
    @classmethod
    def _is_a_place(cls, storage: str) -> str:
        if not storage.strip() or not storage.isprintable():
            raise ValueError("is no name of a folder")
        try:
            Path(storage).expanduser()
        except RuntimeError as error:
            raise ValueError("there is no such user") from error
        return storage

    @field_validator("factors", "seeds")
    @classmethod
    def _is_not_empty(cls, given: Any) -> Any:
        if not given:
            raise ValueError("is empty; list at least one")
        return given


# ------------------------------------------------------------------------------------------------ what the file means


@dataclass(frozen=True)
class Factor:
    name: str
    baseline: str
    levels: Mapping[str, Patch]
    under: Mapping[str, frozenset[str]] = field(default_factory=dict)  # it stands at its baseline elsewhere

    @cached_property
    def paths(self) -> frozenset[str]:
        """The configuration paths that some level decides. A level that names a ``kind`` decides the whole section."""
        return frozenset(path.removesuffix(".kind") for changes in self.levels.values() for path in leaves(changes))

    @property
    def stage(self) -> Stage:
        return "eval" if all(path.startswith("evaluation.") for path in self.paths) else "train"


class Rule(NamedTuple):
    """One entry of ``where``: where ``given`` holds, ``wanted`` must hold too (None: must not hold at all)."""

    given: Mapping[str, frozenset[str]]
    wanted: Mapping[str, frozenset[str]] | None

    def allows(self, levels: Mapping[str, str]) -> bool:
        if not holds(self.given, levels):
            return True
        return self.wanted is not None and holds(self.wanted, levels)


@dataclass(frozen=True)
class SearchSpace:
    """A grid file known to be sound. ``tree`` and ``base`` are the files as resolved: overrides, absolute paths."""

    source: Path
    tree: Mapping[str, Any]
    base: Mapping[str, Any]
    name: str
    question: str
    factors: Mapping[str, Factor]
    design: str
    resolution: int | None
    ladder: tuple[Step, ...]
    where: tuple[Rule, ...]
    seeds: tuple[int, ...]
    early_stopping: EarlyStopping
    resources: Mapping[str, Runtime]
    budget: Budget | None
    tracking: Tracking | None
    storage: str
    promote: Promote | None

    @property
    def baseline(self) -> Levels:
        return {name: factor.baseline for name, factor in self.factors.items()}

    @cached_property
    def metrics(self) -> Mapping[str, str]:
        """Which way is good, by metric: ours and the user's own."""
        return {metric.name: metric.better for metric in (*METRICS.values(), *own_metrics(self.base))}

    @cached_property
    def fraction(self) -> Fraction | None:
        """The generators and aliases of a fractional design."""
        return fraction(tuple(self.factors), self.resolution or 4) if self.design == "fractional" else None

    def exists(self, name: str, levels: Mapping[str, str]) -> bool:
        """Return whether a factor may leave its baseline beside these levels (``under``)."""
        under = self.factors[name].under
        return holds(under, levels) and all(self.exists(parent, levels) for parent in under)

    def resolve(self, levels: Mapping[str, str]) -> dict[str, Any]:
        """Return the configuration tree of a cell, not yet validated. What a factor lies under is patched before it."""
        ordered = sorted(levels, key=self._depth)
        return patch(self.base, *(self._patch(name, levels) for name in ordered))

    def _depth(self, name: str) -> int:
        return max((1 + self._depth(parent) for parent in self.factors[name].under), default=0)

    def _patch(self, name: str, levels: Mapping[str, str]) -> Patch:
        """Return what a factor changes; where it does not exist, what it lies under decides the keys of both."""
        factor = self.factors[name]
        changes = factor.levels[levels[name]]
        if not factor.under or self.exists(name, levels):
            return changes
        taken = [path for parent in factor.under for path in self.factors[parent].paths]
        return {key: value for key, value in leaves(changes).items() if not any(_nested(key, path) for path in taken)}


@dataclass(frozen=True)
class Cell:
    """One level for every factor, and the configuration they resolve to (with the seed of the first block)."""

    levels: Levels
    config: Config

    @property
    def name(self) -> str:
        return cell_name(self.levels)


class LeftOut(NamedTuple):
    """How many cells of a design a factor leaves out, and why: beside their other levels it does nothing.

    ``under``: the levels beside which it acts, where that is all there is to say. ``once``: what of the
    equal ones is done once; nothing where they are left out by declaration alone.
    """

    factor: str
    cells: int
    where: str
    under: Mapping[str, frozenset[str]]
    once: str

    def __str__(self) -> str:
        done = f", {self.once} once" if self.once else ""
        return f"{self.factor} {self.where}: {self.cells} cell{'s' * (self.cells > 1)} left out{done}"


class Design(NamedTuple):
    """The cells of a grid, and which others would be the same as one of them."""

    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]


def holds(condition: Mapping[str, frozenset[str]], levels: Mapping[str, str]) -> bool:
    """Return whether every factor named in ``condition`` stands at one of its levels."""
    return all(levels[factor] in wanted for factor, wanted in condition.items())


# ------------------------------------------------------------------------------------------------------------ reading


def shipped(name: str, beside: Path | None = None) -> Path:
    """Return the path of a file shipped in search_spaces/, beside the package or inside it. Raises ConfigError.

    Files in the folder ``beside``, by default the working folder, may be what is meant too.
    """
    package = Path(__file__).parents[1]
    folders = (package.parent / "search_spaces", package / "search_spaces")
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if Path(name).name == name and candidate.is_file():
                return candidate
    if ((beside or Path()) / name).is_dir():
        raise ConfigError(f"{name}: a folder; name the file")
    files = [path for folder in folders for path in folder.glob("*.yaml")]
    known = {path.name if "." in name else path.stem for path in files}
    here = {path.name for path in (Path(name).parent if beside is None else beside).glob("*.yaml")}
    hint = nearest(name, here | known) or did_you_mean(name, known)
    raise ConfigError(f"{name}: no such file, and none of that name is shipped{hint}")


def find_grid(name: str) -> Path:
    """Return the grid file a user means: a path, or the bare name of a shipped one. Raises ConfigError."""
    path = Path(name)
    if (path.exists() and not path.is_dir()) or path.name != name:
        return path
    found = shipped(name)
    if path.suffix:  # whoever names a file means their own, and a shipped grid may cost days
        raise ConfigError(f"{name}: no such file; the shipped grid of that name is meant by {path.stem!r}")
    return found


def read_space(path: Path, *, settings: Mapping[str, Any] | None = None, **keys: Any) -> SearchSpace:
    """Return the grid in ``path``, with some of its keys replaced by ``keys`` (see ``parse_space``)."""
    return parse_space({**read_yaml(path), **keys}, path, settings=settings)


def parse_space(tree: Mapping[str, Any], path: Path, *, settings: Mapping[str, Any] | None = None) -> SearchSpace:
    """Return the grid with these keys. Raises ConfigError with one line per fault, all of them at once.

    ``path`` is named in faults, and files are relative to its folder. ``settings`` are dotted paths of the grid or of
    the base configuration that replace what the files say.
    """
    tree = _with_settings(_whole(tree, path), settings or {}, path)
    faults = _Faults(str(path))
    chosen = {key: value for key, value in (settings or {}).items() if key.split(".")[0] in GridFile.model_fields}
    grid = faults.collect(lambda: parse(GridFile, tree, _with(path, chosen)))
    factors = _read_factors(tree.get("factors"), path.parent, faults)
    base = _read_base(tree, settings or {}, path, faults)
    _check_overlap(factors, settings or {}, faults)
    if grid is not None:
        _check_typed(
            grid, factors, faults, faults.collect(lambda: own_metrics(base or {}), "validation.metrics: ") or ()
        )
        ladder = _read_ladder(grid.ladder, factors, faults)
        where = tuple(
            rule for i, entry in enumerate(grid.where) if (rule := _read_rule(entry, factors, f"where.{i}", faults))
        )
        promote = _read_promote(grid.promote, factors, faults) if grid.promote is not None else None
    faults.raise_all()
    if grid is None or base is None:
        raise AssertionError("a fault was found but not raised")
    return SearchSpace(
        source=path,
        tree=tree | {"base": BASE_NAME, "data": base["data"], "factors": _resolved(tree["factors"], factors)},
        base=base,
        name=grid.name,
        question=grid.question,
        factors=factors,
        design=grid.design,
        resolution=grid.resolution,
        ladder=ladder,
        where=where,
        seeds=grid.seeds,
        early_stopping=grid.early_stopping,
        resources=grid.resources,
        budget=grid.budget,
        tracking=grid.tracking,
        storage=grid.storage,
        promote=promote,
    )


class _Faults:
    """Lines of what is wrong, gathered so that a user mends them in one go."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: list[str] = []

    def add(self, fault: str) -> None:
        self.lines.append(f"{self.source}: {fault}")

    def collect(self, read: Callable[[], T], prefix: str = "") -> T | None:
        try:
            return read()
        except ConfigError as error:
            self.lines.extend(f"{self.source}: {prefix}{line}" if prefix else line for line in str(error).splitlines())
            return None

    def raise_all(self) -> None:
        if self.lines:
            raise ConfigError("\n".join(dict.fromkeys(self.lines)))


def _whole(tree: Mapping[str, Any], path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the keys of a grid on top of those of the grid that it includes; factors are joined by their names.

    What the included file names stays relative to that file. Raises ConfigError.
    """
    if "factors" not in tree and len(set(tree) & (set(Config.model_fields) - set(GridFile.model_fields))) > 1:
        command = shlex.join(["sagasr-train", str(path)])
        raise ConfigError(f"{path}: a configuration, not a grid; name it as 'base:' of a grid, or train it: {command}")
    own = {key: value for key, value in tree.items() if key != "include"}
    if "include" not in tree:
        return own
    faults, name, above = _Faults(str(path)), tree["include"], (*above, path.resolve())
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: include: expected the name of a grid, such as common.yaml (found {name!r:.80})")
    file = faults.collect(lambda: _file_of(name, path.parent), "include: ")
    if file and file.resolve() in above:
        faults.add(f"include: {name} includes this file in turn; leave one of the two out")
    faults.raise_all()
    assert file is not None
    below, faults = _whole(read_yaml(file), file, above), _Faults(str(file))
    for key in below:
        if key not in GridFile.model_fields:
            faults.add(f"unknown key {key!r}{did_you_mean(key, GridFile.model_fields)}")
    factors = _read_factors(below.get("factors"), file.parent, faults)
    faults.raise_all()
    if isinstance(below.get("base"), str):
        below["base"] = str(_file_of(below["base"], file.parent).absolute())
    if isinstance(below.get("data"), Mapping):
        below |= located({"data": below["data"]}, file.parent)
    if factors:
        below["factors"] = _resolved(below["factors"], factors)
        if isinstance(own.get("factors"), Mapping):
            own["factors"] = below["factors"] | own["factors"]
    return below | own


def _file_of(name: str, folder: Path) -> Path:
    """Return the file that a grid in ``folder`` names: one beside it, or a shipped one. Raises ConfigError."""
    beside = folder / name
    return beside if Path(name).name != name or (beside.exists() and not beside.is_dir()) else shipped(name, folder)


def _with_settings(tree: dict[str, Any], settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the grid's tree with the settings that are keys of the grid, and the design in its plain form."""
    design = tree.get("design")
    if isinstance(design, Mapping) and list(design) == ["fractional"]:
        inner = design["fractional"] or {}
        tree = {**tree, "design": "fractional", **(inner if isinstance(inner, Mapping) else {"resolution": inner})}
    grid_keys, config_keys = set(GridFile.model_fields), set(Config.model_fields)
    for key, value in settings.items():
        first = key.split(".")[0]
        if key == "seed":
            raise ConfigError("--set seed: the grid's seeds decide it; use --seeds")
        if key == "include":
            raise ConfigError("--set include: which grid is included is read before settings; write it into the file")
        if first not in grid_keys | config_keys:
            raise ConfigError(f"--set {key}: unknown key {first!r}{did_you_mean(first, grid_keys | config_keys)}")
        if first in grid_keys:
            tree = patch(tree, located({key: value}, Path.cwd()))
    return dict(tree)


def _read_base(
    grid: Mapping[str, Any], settings: Mapping[str, Any], path: Path, faults: _Faults
) -> Mapping[str, Any] | None:
    """Return the base configuration's tree with the grid's data, the settings and absolute paths; checked alone."""
    name = grid.get("base")
    if not isinstance(name, str) or not name:
        return None
    file = faults.collect(lambda: _file_of(name, path.parent), "base: ")
    tree = faults.collect(lambda: read_yaml(file), "" if file and file.is_file() else "base: ") if file else None
    if file is None or tree is None:
        return None
    if "factors" in tree:
        faults.add(f"base: {file}: a grid, not a configuration; name one, such as tiny.yaml")
        return None
    tree = located(tree, file.parent)
    if isinstance(grid.get("data"), Mapping):
        given = located({"data": grid["data"]}, path.parent)["data"]
        if not _is_sound(given):
            given = {}  # what is wrong with it is told by the grid's check, and no fault of the base
        whole = {"train": "", "val": ""} | {key: str(given[key]) for key in Data.model_fields if key in given}
        tree = {**tree, "data": whole}
    elif grid.get("data") is not None:
        return None  # so is this
    if "data" not in tree:
        faults.add(
            f"data is missing; add 'data: {{train: train.csv, val: val.csv}}', or '{SHIPPED_RECORDINGS}' for both"
        )
        return None
    chosen = {key: value for key, value in settings.items() if key.split(".")[0] not in GridFile.model_fields}
    tree = patch(tree, located(chosen, Path.cwd()))
    faults.collect(lambda: parse(Config, tree, _with(file, chosen)))
    return tree


def _with(file: Path, settings: Mapping[str, Any]) -> str:
    """Return how a fault names a file with some settings replaced."""
    return " with ".join([str(file), *(f"--set {key}={level_name(value)}" for key, value in settings.items())])


def _is_sound(data: Mapping[str, Any]) -> bool:
    try:
        parse(Data, data, "")
    except ConfigError:
        return False
    return True


def _resolved(tree: Mapping[str, Any], factors: Mapping[str, Factor]) -> dict[str, Any]:
    """Return the factors of a grid file with those of its own spelt out, and absolute paths in their patches."""
    return {
        name: entry
        if name in STANDARD and isinstance(entry["levels"] if isinstance(entry, Mapping) else entry, list)
        else {
            **(entry if isinstance(entry, Mapping) else {}),
            "baseline": factors[str(name)].baseline,
            "levels": dict(factors[str(name)].levels),
        }
        for name, entry in tree.items()
    }


# ------------------------------------------------------------------------------------- reading what speaks of levels


def _read_factors(tree: Any, folder: Path, faults: _Faults) -> dict[str, Factor]:
    """Return the factors of a grid file that can be understood; what cannot is added to ``faults``."""
    found: dict[str, Factor] = {}
    for key, entry in tree.items() if isinstance(tree, Mapping) else ():
        name = str(key)
        if not re.fullmatch(r"(?=.{1,63}$)[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", name):
            faults.add(
                f"factors.{name}: a factor's name has letters, digits and _ only, and does not begin with a digit; "
                "or it is the path of a setting, such as training.learning_rate"
            )
        elif name in RESERVED:
            faults.add(f"factors.{name}: that is a column of the results tables; choose another name")
        elif isinstance(entry, list | Mapping):
            whole = {"levels": entry} if isinstance(entry, list) else entry
            read = _listed_factor if isinstance(whole.get("levels"), list) else _own_factor
            if factor := read(name, whole, folder, faults):
                found[name] = factor
        else:
            faults.add(f"factors.{name}: expected a list of levels, or 'baseline:' and 'levels:' (found {entry!r})")
    for key, entry in tree.items() if isinstance(tree, Mapping) else ():
        if str(key) in found and isinstance(entry, Mapping) and "under" in entry:
            found[str(key)] = replace(found[str(key)], under=_read_under(str(key), entry["under"], found, faults))
    _check_circles(found, faults)
    return found


def _read_under(name: str, given: Any, factors: Mapping[str, Factor], faults: _Faults) -> dict[str, frozenset[str]]:
    here = f"factors.{name}.under"
    if not isinstance(given, Mapping) or not given:
        faults.add(f"{here}: expected another factor with the levels beside which this one exists, as {{rolloff: on}}")
        return {}
    return _read_condition(given, factors, here, faults)


def _check_circles(factors: dict[str, Factor], faults: _Faults) -> None:
    """A factor that lies, by way of others or not, under itself would exist nowhere."""
    circular = []
    for name in factors:
        above = set(factors[name].under)
        for _ in factors:
            above |= {parent for one in above for parent in factors[one].under}
        circular += [name] if name in above else []
    for name in circular:
        faults.add(f"factors.{name}.under: {name} lies under itself; remove one of the conditions")
    if circular:
        factors.update({name: replace(factor, under={}) for name, factor in factors.items()})  # to be read on


def _listed_factor(name: str, entry: Mapping[str, Any], folder: Path, faults: _Faults) -> Factor | None:
    """Return a factor whose levels are listed, perhaps with its baseline and what it lies under beside."""
    _check_keys(name, entry, faults)
    if name in STANDARD:
        factor = _standard_factor(name, entry["levels"], faults)
    else:
        factor = _setting_factor(name, entry["levels"], folder, faults)
    if factor is None or "baseline" not in entry:
        return factor
    baseline = _read_baseline(name, entry["baseline"], factor.levels, faults)
    return None if baseline is None else replace(factor, baseline=baseline)


def _read_baseline(name: str, given: Any, levels: Mapping[str, Patch], faults: _Faults) -> str | None:
    baseline = find_level(given, levels)
    if baseline is None:
        told = level_name(given)
        faults.add(f"factors.{name}.baseline: unknown level {told!r}{did_you_mean(told, levels)}")
    return baseline


def _check_keys(name: str, entry: Mapping[str, Any], faults: _Faults) -> None:
    known = ("baseline", "levels", "under")
    for key in entry:
        if key not in known:
            faults.add(f"factors.{name}: unknown key {key!r}{did_you_mean(str(key), known)}")


def _standard_factor(name: str, entry: list[Any], faults: _Faults) -> Factor | None:
    if not entry:
        faults.add(f"factors.{name} is empty; list at least two levels, or remove it")
        return None
    standard, levels = STANDARD[name], {}
    for level in map(level_name, entry):
        changes = standard.levels.get(level) or standard.other(level)
        if changes is None:
            hint = f" ({standard.hint})" if standard.hint else ""
            faults.add(f"factors.{name}: unknown level {level!r}{did_you_mean(level, standard.levels)}{hint}")
        elif level in levels:
            faults.add(f"factors.{name}: level {level!r} is listed twice; remove one")
        else:
            levels[level] = changes
    if not levels:
        return None
    return Factor(name, standard.baseline if standard.baseline in levels else next(iter(levels)), levels)


def _setting_factor(name: str, entry: list[Any], folder: Path, faults: _Faults) -> Factor | None:
    """Return a setting of the configuration with its values as levels, the first the baseline.

    The name is the setting's path, or as much of the path's end as no other setting shares.
    """
    known = setting_paths()
    paths = [path for path in known if path == name] or [path for path in known if path.endswith(f".{name}")]
    if not paths:
        hint = nearest(name, {*STANDARD, *known, *(path.rpartition(".")[2] for path in known)})
        faults.add(
            f"factors.{name}: not a standard factor{hint or did_you_mean(name, STANDARD)} "
            "(one of your own is a setting of the configuration with its values, or has 'baseline:' and 'levels:')"
        )
    elif len(paths) > 1:
        faults.add(f"factors.{name}: several settings end so; name one of: {', '.join(paths)}")
    elif not entry:
        faults.add(f"factors.{name} is empty; list at least two values, or remove it")
    elif any(isinstance(value, Mapping) for value in entry):
        faults.add(f"factors.{name}: expected values of {paths[0]}; for changes give 'baseline:' and 'levels:'")
    else:
        levels: dict[str, Patch] = {}
        for value in entry:
            if level_name(value) in levels:
                faults.add(f"factors.{name}: level {level_name(value)!r} is listed twice; remove one")
            levels[level_name(value)] = patch({}, {paths[0]: value})  # nested: another kind replaces its section
        return _own_factor(name, {"baseline": entry[0], "levels": levels}, folder, faults)
    return None


def _own_factor(name: str, entry: Mapping[str, Any], folder: Path, faults: _Faults) -> Factor | None:
    _check_keys(name, entry, faults)
    given = entry.get("levels")
    if not isinstance(given, Mapping) or not given:
        faults.add(f"factors.{name} is empty; give 'levels:' with at least two levels, each with what it changes")
        return None
    levels: dict[str, Patch] = {}
    for key, changes in given.items():
        level = level_name(key)
        same = find_level(level, levels)
        if (
            not level
            or level != level.strip()
            or not level.isprintable()
            or re.search("[,=]", level)
            or len(level) > 60
        ):
            faults.add(
                f"factors.{name}: level {level!r} must be 1 to 60 printable characters without ',' and '=', "
                "and no blank at its ends"
            )
        elif same is not None:
            word = "listed twice" if same == level else f"the same number as {same!r}"
            faults.add(f"factors.{name}: level {level!r} is {word}; remove one")
        elif isinstance(changes, Mapping):
            levels[level] = located(changes, folder)
        else:
            faults.add(f"factors.{name}.levels.{level}: expected 'path: value' lines, or {{}} (found {changes!r})")
    if "baseline" not in entry:
        faults.add(f"factors.{name}.baseline is missing; name one of: {', '.join(levels)}")
        return None
    baseline = _read_baseline(name, entry["baseline"], levels, faults)
    if baseline is None:
        return None
    if any(path.split(".")[0] == "seed" for changes in levels.values() for path in leaves(changes)):
        faults.add(f"factors.{name}: the seed is not a factor; list it in 'seeds'")
    return Factor(name, baseline, levels)


def _check_overlap(factors: Mapping[str, Factor], settings: Mapping[str, Any], faults: _Faults) -> None:
    """Two factors on one path would overwrite each other, and so would a setting that a factor decides."""
    seen: list[tuple[str, str]] = []
    for name, factor in factors.items():
        for path in sorted(factor.paths):
            for other, taken in seen:
                joined = name in factors[other].under or other in factor.under  # it is clear then which is heard
                if other != name and not joined and _nested(path, taken):
                    faults.add(
                        f"factors.{name} and factors.{other} both change {min(path, taken, key=len)}; join the two"
                    )
            seen.append((name, path))
    for key in settings:
        for name in {name for name, path in seen if _nested(key, path)}:
            faults.lines.append(f"--set {key}: the factor {name!r} decides it; use --only '{name}=LEVEL'")


def _nested(path: str, other: str) -> bool:
    return f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.")


def own_metrics(base: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the metrics of the user's own that a configuration names. Raises ConfigError where one cannot be used."""
    validation = base.get("validation")
    named = validation.get("metrics") if isinstance(validation, Mapping) else None
    if not isinstance(named, list) or not all(isinstance(part, str) and ":" in part for part in named):
        return ()  # none, or the configuration's own check says what is wrong
    from sagasr.plugins.parts import load

    found = tuple(load("metric", part) for part in named)
    for part, metric in zip(named, found, strict=True):
        if metric.better not in ("lower", "higher"):
            raise ConfigError(f"metric {part}: better is {metric.better!r}, not 'lower' or 'higher'")
        if metric.name in RESERVED or not str(metric.name).isidentifier():
            raise ConfigError(f"metric {part}: name {metric.name!r} is a column that is there, or none; choose another")
    return found


def _check_typed(grid: GridFile, factors: Mapping[str, Factor], faults: _Faults, own: Sequence[Any] = ()) -> None:
    if len(set(grid.seeds)) < len(grid.seeds):
        faults.add(f"seeds: {list(grid.seeds)} names a seed twice; remove one")
    sizes = set(SIZES) | set(factors["size"].levels if "size" in factors else ()) | {"default"}
    for size in grid.resources:
        if size not in sizes:
            faults.add(f"resources: unknown size {size!r}{did_you_mean(size, sizes)}")
    metric = grid.early_stopping.metric
    known = [f"val/{name}" for name in (*METRICS, *(one.name for one in own))]
    if metric not in known:
        faults.add(f"early_stopping.metric: unknown metric {metric!r}{did_you_mean(metric, known)}")
    if grid.design == "ladder":
        if not grid.ladder:
            faults.add("ladder is missing; 'design: ladder' needs its steps")
        if grid.promote:
            faults.add("promote has no effect with 'design: ladder', which lists its cells; remove it")
        if grid.where:
            faults.add("where has no effect with 'design: ladder'; remove it")
    if grid.design == "fractional":
        for name, factor in factors.items():
            if len(factor.levels) != 2:
                faults.add(
                    f"factors.{name} has {len(factor.levels)} levels; a fractional design needs two for every factor"
                )
        if len(factors) > 16:
            faults.add(f"{len(factors)} factors are more than the 16 a fractional design can have")
    elif grid.resolution is not None:
        faults.add(f"resolution has no effect with 'design: {grid.design}'; remove it, or choose 'design: fractional'")


def _read_levels(given: Mapping[str, Any], factors: Mapping[str, Factor], where: str, faults: _Faults) -> Levels:
    """Return the known ``factor: level`` pairs of ``given``."""
    found: Levels = {}
    for name, value in given.items():
        if name not in factors:
            faults.add(f"{where}: unknown factor {name!r}{did_you_mean(name, factors)}")
        elif (level := find_level(value, factors[name].levels)) is None:
            word = level_name(value)
            faults.add(f"{where}: factor {name!r} has no level {word!r}{did_you_mean(word, factors[name].levels)}")
        else:
            found[name] = level
    return found


def _read_ladder(
    entries: Sequence[Mapping[str, Any]], factors: Mapping[str, Factor], faults: _Faults
) -> tuple[Step, ...]:
    baseline = {name: factor.baseline for name, factor in factors.items()}
    steps: dict[str, Step] = {}
    for position, entry in enumerate(entries):
        here = f"ladder.{position}"
        if "step" not in entry:
            faults.add(f'{here}: step is missing; name it, e.g. step: "{position}"')
            continue
        step = level_name(entry["step"])
        given = {key: value for key, value in entry.items() if key not in ("step", "versus")}
        levels = baseline | _read_levels(given, factors, f"{here} (step {step})", faults)
        versus = level_name(entry["versus"]) if "versus" in entry else next(reversed(steps), None)
        if step in steps:
            faults.add(f"{here}: step {step!r} is named twice; rename one")
        elif versus is not None and versus not in steps:
            faults.add(f"{here} (step {step}): versus names no earlier step {versus!r}{did_you_mean(versus, steps)}")
        elif versus is not None and steps[versus].levels == levels:
            faults.add(f"{here}: step {step!r} changes nothing against step {versus!r}; both are {cell_name(levels)}")
        steps.setdefault(step, Step(step, levels, versus))
    return tuple(steps.values())


def _read_rule(entry: Mapping[str, Any], factors: Mapping[str, Factor], here: str, faults: _Faults) -> Rule | None:
    keys = set(entry)
    if keys not in ({"if", "then"}, {"not"}) or not all(isinstance(entry[key], Mapping) and entry[key] for key in keys):
        faults.add(f"{here}: expected {{if: {{FACTOR: LEVEL}}, then: {{FACTOR: LEVEL}}}} or {{not: {{FACTOR: LEVEL}}}}")
        return None
    given = _read_condition(entry["if" if "if" in entry else "not"], factors, here, faults)
    wanted = _read_condition(entry["then"], factors, here, faults) if "then" in entry else None
    return Rule(given, wanted)


def _read_condition(
    given: Mapping[str, Any], factors: Mapping[str, Factor], here: str, faults: _Faults
) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for name, value in given.items():
        for level in value if isinstance(value, list) else [value]:
            for factor, known in _read_levels({name: level}, factors, here, faults).items():
                found.setdefault(factor, set()).add(known)
    return {name: frozenset(levels) for name, levels in found.items()}


def _read_promote(entry: Mapping[str, Any], factors: Mapping[str, Factor], faults: _Faults) -> Promote | None:
    example = "promote: {when: improves, from: {size: small}, to: {size: full}}"
    keys = ("when", "from", "to")
    if set(entry) != set(keys) or not all(isinstance(entry[key], Mapping) and entry[key] for key in keys[1:]):
        faults.add(f"promote: expected when, from and to, as in '{example}'")
        return None
    if entry["when"] != "improves":
        faults.add(f"promote.when: unknown word {entry['when']!r}; known: improves")
    source = _read_levels(entry["from"], factors, "promote.from", faults)
    target = _read_levels(entry["to"], factors, "promote.to", faults)
    if set(entry["from"]) != set(entry["to"]) or any(target.get(name) == level for name, level in source.items()):
        faults.add(f"promote: from and to must name the same factors at different levels, as in '{example}'")
    for name in source:
        if factors[name].stage == "eval":
            faults.add(
                f"promote: {name} is applied at evaluation, which needs no training of its own; "
                "name a factor that changes the training, or leave promote out"
            )
    return Promote(str(entry["when"]), source, target)


def parse_only(texts: Sequence[str], factors: Mapping[str, Factor]) -> tuple[Mapping[str, frozenset[str]], ...]:
    """Return the conditions of ``--only``: a comma means and, several texts mean or. Raises ConfigError."""
    faults = _Faults("--only")
    conditions = []
    for text in texts:
        given: dict[str, Any] = {}
        for name, equals, level in pairs(text):
            if equals:
                given.setdefault(name, []).append(level)
            else:
                faults.add(f"expected 'FACTOR=LEVEL', e.g. 'text=caption' (found {name!r})")
        if not given and not faults.lines:
            faults.add(f"{text!r} names no cells; give FACTOR=LEVEL, or leave it out")
        conditions.append(_read_condition(given, factors, text, faults))
    faults.raise_all()
    return tuple(conditions)


# ---------------------------------------------------------------------------------------------------------- expansion


def expand(space: SearchSpace) -> tuple[Cell, ...]:
    """Return the cells of a grid, each once: the design's, then the ladder's. Raises ConfigError naming the faulty."""
    return lay_out(space).cells


def lay_out(space: SearchSpace) -> Design:
    """Return the cells as ``expand``, and what was left out of them because it would be the same as one of them."""
    faults = _Faults(str(space.source))
    _check_levels(space, faults)
    chosen = {cell_name(levels): levels for levels in _design(space, faults)}
    chosen |= {cell_name(step.levels): step.levels for step in space.ladder}
    if not chosen:
        faults.add("where leaves no cell; relax one of its rules")
    repeats = _outside(space, chosen)
    chosen |= {cell_name(levels): levels for levels in _promotable(space, tuple(chosen.values()))}
    if len(chosen) > MAX_CELLS:
        faults.add(f"{len(chosen)} cells are more than {MAX_CELLS}; use fewer levels, 'where', or another design")
    faults.raise_all()
    cells = []
    failed: dict[str, list[Levels]] = {}
    for levels in chosen.values():
        try:
            cells.append(Cell(levels, parse(Config, space.resolve(levels) | {"seed": space.seeds[0]}, "")))
        except ConfigError as error:
            for line in str(error).splitlines():
                failed.setdefault(line.removeprefix(": "), []).append(levels)
    for fault, where in failed.items():
        faults.add(f"{_blame(space, chosen.values(), where)}: {fault}")
    faults.raise_all()
    _check_question(space, cells, faults)
    kept = _first_of_equals(space, cells, repeats, faults)
    _check_repeats(space, cells, repeats, faults)
    faults.raise_all()
    found = [_left_out(space, name, left, [cell.levels for cell in kept]) for name, left in repeats.items()]
    return Design(kept, tuple(found))


def _outside(space: SearchSpace, chosen: dict[str, Levels]) -> dict[str, list[Levels]]:
    """Take away the cells in which a factor leaves its baseline where it does not exist; return them by factor."""
    found: dict[str, list[Levels]] = {}
    for cell, levels in list(chosen.items()):
        for name, factor in space.factors.items():
            if levels[name] != factor.baseline and not space.exists(name, levels):
                found.setdefault(name, []).append(levels)
                chosen.pop(cell, None)
    return found


def _check_question(space: SearchSpace, cells: Sequence[Cell], faults: _Faults) -> None:
    """Scores of different things do not compare: what decides the question may not differ between cells."""
    questions = [scored_on(cell.config) for cell in cells]
    for key in dict.fromkeys(key for one in questions for key in one):
        values = list(dict.fromkeys(str(one.get(key)) for one in questions))
        if len(values) > 1:
            names = [name for name, factor in space.factors.items() if any(_nested(key, path) for path in factor.paths)]
            told = ", ".join(f"factors.{name}" for name in names) or "factors"
            faults.add(
                f"{told}: {key} ({', '.join(values)}) decides what is scored, so "
                "these cells are not comparable; set it alike for all of them, or make a sweep of each"
            )


def _first_of_equals(
    space: SearchSpace, cells: Sequence[Cell], repeats: dict[str, list[Levels]], faults: _Faults
) -> tuple[Cell, ...]:
    """Return one cell of those that give equal results: that at the baseline of what does nothing.

    The others are added to ``repeats``, by factor.
    """
    rank = {name: [f.baseline, *(one for one in f.levels if one != f.baseline)] for name, f in space.factors.items()}

    def departure(cell: Cell) -> tuple[int, list[int]]:
        at = [rank[name].index(level) for name, level in cell.levels.items()]
        return sum(place > 0 for place in at), at

    same: dict[Config, list[Cell]] = {}
    for cell in cells:
        same.setdefault(acting(cell.config), []).append(cell)
    first = {cell.name: min(group, key=departure) for group in same.values() for cell in group}
    kept = tuple(cell for cell in cells if first[cell.name] is cell)
    for cell in cells:
        for name, level in cell.levels.items():
            if level != first[cell.name].levels[name]:
                repeats.setdefault(name, []).append(cell.levels)
    for name, left in repeats.items():
        for level in dict.fromkeys(levels[name] for levels in left):
            if all(cell.levels[name] != level for cell in kept):
                others = {first[cell.name].levels[name] for cell in cells if cell.levels[name] == level}
                faults.add(_idle_everywhere(space, name, level, sorted(others), cells))
    return kept


def _idle_everywhere(space: SearchSpace, name: str, level: str, others: Sequence[str], cells: Sequence[Cell]) -> str:
    here, paths = [cell for cell in cells if cell.levels[name] == level], space.factors[name].paths
    if not here:
        return (
            f"factors.{name}: no cell of the design is where {name} exists ({_words(space, space.factors[name].under)})"
        )
    reasons = [
        idle.when
        for idle in IDLE
        if any(_nested(key, path) for key in idle.keys for path in paths)
        and all(idle.holds(cell.config) for cell in here)
    ]
    why = f", while {' and '.join(dict.fromkeys(reasons))}" if reasons else ""
    return (
        f"factors.{name}: level {level!r} gives the same as {' and '.join(map(repr, others))} in every cell{why}; "
        "change that, or remove the level"
    )


def _check_repeats(
    space: SearchSpace, cells: Sequence[Cell], repeats: Mapping[str, Sequence[Levels]], faults: _Faults
) -> None:
    """What must have all its cells, or names a cell, cannot do without those that are left out."""
    idle_one = next(chain(repeats, _idle_somewhere(space, cells)), None) if space.design == "fractional" else None
    if idle_one:
        faults.add(
            f"factors.{idle_one} does nothing in some cells, and a fraction needs them all: "
            "use 'design: full', or ask about it in a sweep of its own"
        )
    for step in space.ladder:
        idle = [f"{name}={step.levels[name]}" for name, left in repeats.items() if step.levels in left]
        if idle:
            faults.add(f"ladder step {step.step}: {', '.join(idle)} does nothing beside its other levels; leave it out")


def _idle_somewhere(space: SearchSpace, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the factors that do nothing in one of these cells, whose equal need not be among them."""
    keys = [key for idle in IDLE for key in idle.keys]
    for name, factor in space.factors.items():
        moved = [cell for cell in cells if cell.levels[name] != factor.baseline]
        if any(_nested(key, path) for key in keys for path in factor.paths):
            at_baseline = (space.resolve(cell.levels | {name: factor.baseline}) for cell in moved)
            for cell, tree in zip(moved, at_baseline, strict=True):
                with contextlib.suppress(ConfigError):
                    if acting(parse(Config, tree | {"seed": cell.config.seed}, "")) == acting(cell.config):
                        yield name
                        break


def _left_out(space: SearchSpace, name: str, left: Sequence[Levels], kept: Sequence[Levels]) -> LeftOut:
    """Return where a factor acts, or where it does nothing, as briefly as that can be said."""
    factor = space.factors[name]
    lost = {levels[name] for levels in left}
    there = [levels for levels in kept if levels[name] in lost]

    def spans(cells: Sequence[Levels]) -> dict[str, frozenset[str]]:
        """Return the levels of each other factor that does not stand at all of them in these cells."""
        seen = {other: frozenset(levels[other] for levels in cells) for other in space.factors if other != name}
        return {other: at for other, at in seen.items() if at < {levels[other] for levels in (*left, *kept)}}

    def apart(limits: Mapping[str, frozenset[str]], cells: Sequence[Levels]) -> bool:
        return bool(limits) and not any(holds(limits, levels) for levels in cells)

    acts, idle = spans(there), spans(left)
    acts = next(({other: at} for other, at in acts.items() if apart({other: at}, left)), acts)
    once = {"train": "trained", "eval": "scored"}[factor.stage]
    once = once if any(space.exists(name, levels) for levels in left) else ""
    whole = lost == factor.levels.keys() - {factor.baseline}
    label = name if whole else f"{name}={'|'.join(level for level in factor.levels if level in lost)}"
    if apart(acts, left):
        return LeftOut(label, len(left), f"acts only where {_words(space, acts)}", acts if whole else {}, once)
    where = f"where {_words(space, idle)}" if apart(idle, there) else "beside some of the other levels"
    return LeftOut(label, len(left), f"does nothing {where}", {}, once)


def _words(space: SearchSpace, condition: Mapping[str, frozenset[str]]) -> str:
    """Return a condition in words: ``lfr=hard|crossfade size=full``."""
    return cell_name(
        {name: "|".join(one for one in space.factors[name].levels if one in at) for name, at in condition.items()}
    )


def _design(space: SearchSpace, faults: _Faults) -> Iterator[Levels]:
    """Yield the cells of the design that ``where`` allows; the first factor changes slowest."""
    names, all_levels = list(space.factors), [list(factor.levels) for factor in space.factors.values()]
    match space.design:
        case "full":
            count = 1
            for levels in all_levels:
                count *= len(levels)
            if count > MAX_PRODUCT:
                faults.add(f"the full design has {count} cells; use fewer levels or 'design: one-at-a-time'")
                return
            cells: Iterator[Levels] = (dict(zip(names, levels, strict=True)) for levels in product(*all_levels))
        case "one-at-a-time":
            cells = _one_at_a_time(space)
        case "fractional":
            if space.fraction is None:
                raise AssertionError("a fractional design has a fraction")
            pairs = [
                (f.baseline, next(level for level in f.levels if level != f.baseline)) for f in space.factors.values()
            ]
            cells = (
                {name: pair[bit] for name, pair, bit in zip(names, pairs, bits, strict=True)}
                for bits in space.fraction.cells()
            )
        case _:
            cells = iter(())
    yield from (levels for levels in cells if all(rule.allows(levels) for rule in space.where))


def _one_at_a_time(space: SearchSpace) -> Iterator[Levels]:
    """Yield the baseline, and every level of every factor beside the baselines of the others, or where it acts."""
    yield space.baseline
    for name, factor in space.factors.items():
        beside = _where_it_acts(space, name)
        yield beside
        yield from (beside | {name: level} for level in factor.levels)


def _where_it_acts(space: SearchSpace, name: str) -> Levels:
    """Return the baseline with as few other levels as make all levels of a factor differ, if at most one more does."""
    beside = _beside(space, name)
    changes = [
        {},
        *({other: level} for other in space.factors if other != name for level in space.factors[other].levels),
    ]
    for levels in (beside | change for change in changes):
        if not space.exists(name, levels) or not all(rule.allows(levels) for rule in space.where):
            continue
        try:
            made = {
                acting(parse(Config, space.resolve(levels | {name: one}), "")) for one in space.factors[name].levels
            }
        except ConfigError:
            continue  # the cells that have it will say so
        if len(made) == len(space.factors[name].levels):
            return levels
    return beside


def _beside(space: SearchSpace, name: str) -> Levels:
    """Return the baseline, moved to where a factor exists."""
    levels = space.baseline
    for parent, at in space.factors[name].under.items():
        levels |= {other: level for other, level in _beside(space, parent).items() if level != space.baseline[other]}
        if levels[parent] not in at:
            levels[parent] = next(one for one in space.factors[parent].levels if one in at)
    return levels


def _promotable(space: SearchSpace, cells: Sequence[Levels]) -> Iterator[Levels]:
    """Yield each cell that decides a promotion as it would be where it is promoted to, if ``where`` allows that."""
    if space.promote is not None:
        for levels in cells:
            moved = {**levels, **space.promote.target}
            if space.promote.decides(levels) and all(rule.allows(moved) for rule in space.where):
                yield moved


def _check_levels(space: SearchSpace, faults: _Faults) -> None:
    """A level that resolves to the configuration of another of its factor would be a question without an answer."""
    for name, factor in space.factors.items():
        seen: dict[Config, str] = {}
        for level in (factor.baseline, *(level for level in factor.levels if level != factor.baseline)):
            try:
                config = parse(Config, space.resolve(_beside(space, name) | {name: level}), "")
            except ConfigError:
                continue  # the cells that have it will say so
            other = seen.setdefault(config, level)
            if other == level:
                continue
            role = f"baseline {other!r}" if other == factor.baseline else f"level {other!r}"
            faults.add(f"factors.{name}: level {level!r} changes nothing against {role}; remove it or give it a patch")


def _blame(space: SearchSpace, cells: Any, failed: Sequence[Levels]) -> str:
    """Return what to name for a fault of several cells: the one level they share and others lack, or the cells."""
    cells = list(cells)
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    shown = f"cell '{cell_name(failed[0])}'{more}"
    for name, factor in space.factors.items():
        for level in factor.levels:
            if len(factor.levels) > 1 and failed == [levels for levels in cells if levels[name] == level]:
                return f"factors.{name}.levels.{level} ({shown})"
    return shown
