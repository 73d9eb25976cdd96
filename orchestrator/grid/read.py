"""Grid files, with those that they include and their base, are read by ``read_space``, which checks all they say."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.grid.factors import Factor, level_name, read_condition, read_levels
from orchestrator.grid.read_factors import read_factors, written
from orchestrator.grid.space import GridFile, Rule, SearchSpace, own_metrics
from orchestrator.sweep_folder.design import Promote, Step, cell_name
from sagasr.config.faults import Faults
from sagasr.config.parsing import parse
from sagasr.config.patching import SHIPPED_RECORDINGS, located, nested, patch
from sagasr.config.settings import SIZES, Config
from sagasr.io.errors import ConfigError, did_you_mean, nearest
from sagasr.io.files import read_yaml
from sagasr.metrics.table import METRICS

Factors = Mapping[str, Factor]
Tree = Mapping[str, Any]

GRID_KEYS, CONFIG_KEYS = frozenset(GridFile.model_fields), frozenset(Config.model_fields)
BASE_NAME = "base.yaml"  # of the resolved base, beside the resolved grid


def read_space(path: Path, *, settings: Mapping[str, Any] | None = None, **keys: Any) -> SearchSpace:
    """Return the grid in ``path``, with some of its keys replaced by ``keys`` (see ``parse_space``)."""
    return parse_space({**read_yaml(path), **keys}, path, settings=settings)


def parse_space(tree: Mapping[str, Any], path: Path, *, settings: Mapping[str, Any] | None = None) -> SearchSpace:
    """Return the grid with these keys. Raises ConfigError with one line per fault.

    ``path`` is named in faults, and files are relative to its folder. ``settings`` are dotted paths of the grid or of
    the base configuration that replace what the files say. Names are checked once the keys and the factors are sound.
    """
    settings = settings or {}
    tree = with_settings(with_included(tree, path), settings)
    faults, at = Faults(), f"{path}: "
    of_the_grid = {key: value for key, value in settings.items() if key.split(".")[0] in GRID_KEYS}
    with faults.collecting():
        grid = parse(GridFile, tree, with_changes(path, of_the_grid))
    with faults.collecting(at):
        factors = read_factors(tree["factors"] if isinstance(tree.get("factors"), Mapping) else {}, path.parent)
    faults.stop()
    with faults.collecting():
        base = read_base(tree, settings, path)
    faults.extend(at + line for line in (*_overlaps(factors), *_misfits(grid, factors)))
    faults += [
        f"--set {key}: the factor {name!r} decides it; use --only '{name}=LEVEL'"
        for key in settings
        for name, factor in factors.items()
        if any(nested(key, path) for path in factor.paths)
    ]
    rules = []
    for position, entry in enumerate(grid.where):
        with faults.collecting(at):
            rules.append(_read_rule(entry, factors, f"where.{position}"))
    with faults.collecting(at):
        ladder = _read_ladder(grid.ladder, factors)
    with faults.collecting(at):
        promote = None if grid.promote is None else _read_promote(grid.promote, factors)
    faults.stop()
    with faults.collecting(f"{at}validation.metrics: "):
        metrics = [f"val/{name}" for name in (*METRICS, *(metric.name for metric in own_metrics(base)))]
    faults.stop()
    if (chosen := grid.early_stopping.metric) not in metrics:
        raise ConfigError(f"{at}early_stopping.metric: unknown metric {chosen!r}{did_you_mean(chosen, metrics)}")
    resolved = tree | {"base": BASE_NAME, "data": base["data"], "factors": written(tree["factors"], factors)}
    return SearchSpace(path, resolved, base, grid, factors, ladder, tuple(rules), promote)


def _overlaps(factors: Factors) -> Iterator[str]:
    """Two factors on one path would overwrite each other, unless one lies under the other."""
    seen: list[tuple[str, str]] = []
    for name, factor in factors.items():
        for path in sorted(factor.paths):
            for other, taken in seen:
                joined = name in factors[other].under or other in factor.under  # it is clear then which is heard
                if other != name and not joined and nested(path, taken):
                    yield f"factors.{name} and factors.{other} both change {min(path, taken, key=len)}; join the two"
            seen.append((name, path))


def _misfits(grid: GridFile, factors: Factors) -> Iterator[str]:
    """Yield what does not go together, key by key sound."""
    if len(set(grid.seeds)) < len(grid.seeds):
        yield f"seeds: {list(grid.seeds)} names a seed twice; remove one"
    sizes = set(SIZES) | set(factors["size"].levels if "size" in factors else ()) | {"default"}
    for size in grid.resources:
        if size not in sizes:
            yield f"resources: unknown size {size!r}{did_you_mean(size, sizes)}"
    if grid.design == "ladder":
        if not grid.ladder:
            yield "ladder is missing; 'design: ladder' needs its steps"
        if grid.promote:
            yield "promote has no effect with 'design: ladder', which lists its cells; remove it"
        if grid.where:
            yield "where has no effect with 'design: ladder'; remove it"
    if grid.design == "fractional":
        for name, factor in factors.items():
            if len(factor.levels) != 2:
                yield f"factors.{name} has {len(factor.levels)} levels; a fractional design needs two for every factor"
        if len(factors) > 16:
            yield f"{len(factors)} factors are more than the 16 a fractional design can have"
    elif grid.resolution is not None:
        yield f"resolution has no effect with 'design: {grid.design}'; remove it, or choose 'design: fractional'"


def _read_rule(entry: Mapping[str, Any], factors: Factors, here: str) -> Rule:
    keys = set(entry)
    if keys not in ({"if", "then"}, {"not"}) or not all(isinstance(part, Mapping) and part for part in entry.values()):
        expected = "{if: {FACTOR: LEVEL}, then: {FACTOR: LEVEL}} or {not: {FACTOR: LEVEL}}"
        raise ConfigError(f"{here}: expected {expected}")
    given, *wanted = (read_condition(entry[key], factors, here) for key in sorted(keys))
    return Rule(given, wanted[0] if wanted else None)


def _read_ladder(entries: Sequence[Mapping[str, Any]], factors: Factors) -> tuple[Step, ...]:
    """Return the steps of the ladder. One that names no other is compared with the step before. Raises ConfigError."""
    baseline = {name: factor.baseline for name, factor in factors.items()}
    steps: dict[str, Step] = {}
    faults = Faults()
    for position, entry in enumerate(entries):
        here, levels = f"ladder.{position}", baseline
        if "step" not in entry:
            faults.append(f'{here}: step is missing; name it, e.g. step: "{position}"')
            continue
        step = level_name(entry["step"])
        versus = level_name(entry["versus"]) if "versus" in entry else next(reversed(steps), None)
        given = {key: value for key, value in entry.items() if key not in ("step", "versus")}
        with faults.collecting():
            levels = baseline | read_levels(given, factors, f"{here} (step {step})")
        if step in steps:
            faults.append(f"{here}: step {step!r} is named twice; rename one")
        elif versus is not None and versus not in steps:
            faults.append(f"{here} (step {step}): versus names no earlier step {versus!r}{did_you_mean(versus, steps)}")
        elif versus is not None and steps[versus].levels == levels and not faults:
            faults.append(
                f"{here}: step {step!r} changes nothing against step {versus!r}; both are {cell_name(levels)}"
            )
        steps.setdefault(step, Step(step, levels, versus))
    faults.stop()
    return tuple(steps.values())


def _read_promote(entry: Mapping[str, Any], factors: Factors) -> Promote:
    example = "as in 'promote: {when: improves, from: {size: small}, to: {size: full}}'"
    parts = [entry.get("from"), entry.get("to")]
    if set(entry) != {"when", "from", "to"} or not all(isinstance(part, Mapping) and part for part in parts):
        raise ConfigError(f"promote: expected when, from and to, {example}")
    faults = Faults()
    if entry["when"] != "improves":
        faults.append(f"promote.when: unknown word {entry['when']!r}; known: improves")
    with faults.collecting():
        source = read_levels(entry["from"], factors, "promote.from")
    with faults.collecting():
        target = read_levels(entry["to"], factors, "promote.to")
    faults.stop()
    if set(source) != set(target) or any(target[name] == level for name, level in source.items()):
        faults.append(f"promote: from and to must name the same factors at different levels, {example}")
    faults += [
        f"promote: {name} is applied at evaluation, which needs no training of its own; "
        "name a factor that changes the training, or leave promote out"
        for name in source
        if factors[name].stage == "eval"
    ]
    faults.stop()
    return Promote(entry["when"], source, target)


def shipped(name: str, beside: Path | None = None) -> Path:
    """Return a file shipped in search_spaces/. Raises ConfigError, which knows of the files in ``beside`` too."""
    package = Path(__file__).parents[1]
    shipped_files = [file for folder in (package.parent, package) for file in folder.glob("search_spaces/*.yaml")]
    for file in shipped_files:
        if name in (file.name, file.stem):
            return file
    if ((beside or Path()) / name).is_dir():
        raise ConfigError(f"{name}: a folder; name the file")
    known = {path.name if "." in name else path.stem for path in shipped_files}
    here = {path.name for path in (Path(name).parent if beside is None else beside).glob("*.yaml")}
    hint = nearest(name, here | known) or did_you_mean(name, known)
    raise ConfigError(f"{name}: no such file, and none of that name is shipped{hint}")


def find_grid(name: str) -> Path:
    """Return the grid file a user means: a path, or the bare name of a shipped one. Raises ConfigError."""
    path = Path(name)
    if (path.exists() and not path.is_dir()) or path.name != name:
        return path
    file = shipped(name)
    if path.suffix:  # whoever names a file means their own, and a shipped grid may cost days
        raise ConfigError(f"{name}: no such file; the shipped grid of that name is meant by {path.stem!r}")
    return file


def with_included(tree: Tree, path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the keys of a grid on top of those of the grid that it includes; factors are joined by their names.

    What the included file names stays relative to that file. Raises ConfigError.
    """
    if "factors" not in tree and len(set(tree) & (CONFIG_KEYS - GRID_KEYS)) > 1:
        command = shlex.join(["sagasr-train", str(path)])
        raise ConfigError(f"{path}: a configuration, not a grid; name it as 'base:' of a grid, or train it: {command}")
    own = {key: value for key, value in tree.items() if key != "include"}
    if "include" not in tree:
        return own
    name, above = tree["include"], (*above, path.resolve())
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: include: expected the name of a grid, such as common.yaml (found {name!r:.80})")
    file = _file_of(name, path.parent, f"{path}: include: ")
    if file.resolve() in above:
        raise ConfigError(f"{path}: include: {name} includes this file in turn; leave one of the two out")
    below = _made_whole(with_included(read_yaml(file), file, above), file)
    if isinstance(below.get("factors"), Mapping) and isinstance(own.get("factors"), Mapping):
        own["factors"] = below["factors"] | own["factors"]
    return below | own


def _made_whole(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return an included grid as it can be read from any folder: absolute paths, factors spelt out."""
    unknown = [key for key in tree if key not in GRID_KEYS]
    faults = Faults(f"{file}: unknown key {key!r}{did_you_mean(key, GRID_KEYS)}" for key in unknown)
    if isinstance(tree.get("factors"), Mapping):
        with faults.collecting(f"{file}: "):
            tree["factors"] = written(tree["factors"], read_factors(tree["factors"], file.parent))
    faults.stop()
    if isinstance(tree.get("base"), str):
        tree["base"] = str(_file_of(tree["base"], file.parent, "").absolute())
    if isinstance(tree.get("data"), Mapping):
        tree |= located({"data": tree["data"]}, file.parent)
    return tree


def _file_of(name: str, folder: Path, at: str) -> Path:
    """Return the file that a grid in ``folder`` names: one beside it, or a shipped one. Raises ConfigError."""
    beside = folder / name
    if Path(name).name != name or (beside.exists() and not beside.is_dir()):
        return beside
    try:
        return shipped(name, folder)
    except ConfigError as error:
        raise ConfigError(f"{at}{error}") from error


def with_settings(tree: Tree, settings: Tree) -> dict[str, Any]:
    """Return the grid's tree with the settings that are keys of the grid, and the design in its plain form."""
    design = tree.get("design")
    if isinstance(design, Mapping) and list(design) == ["fractional"]:
        inner = design["fractional"] or {}
        tree = {**tree, "design": "fractional", **(inner if isinstance(inner, Mapping) else {"resolution": inner})}
    for key, value in settings.items():
        first = key.split(".")[0]
        if key == "seed":
            raise ConfigError("--set seed: the grid's seeds decide it; use --seeds")
        if key == "include":
            raise ConfigError("--set include: which grid is included is read before settings; write it into the file")
        if first not in GRID_KEYS | CONFIG_KEYS:
            raise ConfigError(f"--set {key}: unknown key {first!r}{did_you_mean(first, GRID_KEYS | CONFIG_KEYS)}")
        if first in GRID_KEYS:
            tree = patch(tree, located({key: value}, Path.cwd()))
    return dict(tree)


def read_base(grid: Tree, settings: Tree, path: Path) -> dict[str, Any]:
    """Return the base's tree with the grid's data, the settings and absolute paths, checked. Raises ConfigError."""
    faults, file = Faults(), _file_of(grid["base"], path.parent, f"{path}: base: ")
    with faults.collecting("" if file.is_file() else f"{path}: base: "):
        tree = read_yaml(file)
    faults.stop()
    if "factors" in tree:
        raise ConfigError(f"{path}: base: {file}: a grid, not a configuration; name one, such as tiny.yaml")
    tree = located(tree, file.parent)
    if grid.get("data"):
        tree |= located({"data": grid["data"]}, path.parent)
    if "data" not in tree:
        example = f"add 'data: {{train: train.csv, val: val.csv}}', or '{SHIPPED_RECORDINGS}' for both"
        raise ConfigError(f"{path}: data is missing; {example}")
    chosen = {key: value for key, value in settings.items() if key.split(".")[0] not in GRID_KEYS}
    tree = patch(tree, located(chosen, Path.cwd()))
    parse(Config, tree, with_changes(file, chosen))
    return tree


def with_changes(file: Path, settings: Tree) -> str:
    """Return how a fault names a file with some settings replaced."""
    return " with ".join([str(file), *(f"--set {key}={level_name(value)}" for key, value in settings.items())])
