"""Reading of grid files: ``read_space`` is the way in."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.grid.factors import METRICS
from orchestrator.grid.files import GRID_KEYS, read_base, with_changes, with_included, with_settings
from orchestrator.grid.metrics import own_metrics
from orchestrator.grid.read_factors import read_factors, written
from orchestrator.grid.references import Factors, read_ladder, read_promote, read_rules
from orchestrator.grid.schema import GridFile
from orchestrator.grid.space import SearchSpace
from sagasr.config.faults import Faults
from sagasr.config.parsing import parse
from sagasr.config.patching import nested
from sagasr.config.settings import SIZES
from sagasr.io.errors import did_you_mean
from sagasr.io.files import read_yaml

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
    faults = Faults()
    at = f"{path}: "
    with faults.collecting():
        grid = parse(GridFile, tree, with_changes(path, _of_the_grid(settings)))
    with faults.collecting(at):
        factors = read_factors(tree["factors"] if isinstance(tree.get("factors"), Mapping) else {}, path.parent)
    sound = not faults
    with faults.collecting():
        base = read_base(tree, settings, path)
    if sound:
        faults.extend(at + line for line in (*_overlaps(factors), *_misfits(grid, factors)))
        faults.extend(_decided(factors, settings))
        with faults.collecting(at):
            ladder = read_ladder(grid.ladder, factors)
        with faults.collecting(at):
            where = read_rules(grid.where, factors)
        with faults.collecting(at):
            promote = read_promote(grid.promote, factors) if grid.promote else None
    faults.stop()
    assert base is not None  # else a fault of the grid's own keys has been raised
    with faults.collecting(f"{at}validation.metrics: "):
        faults.extend(at + line for line in _unknown_metric(grid, base))
    faults.stop()
    resolved = tree | {"base": BASE_NAME, "data": base["data"], "factors": written(tree["factors"], factors)}
    return SearchSpace(path, resolved, base, grid, factors, ladder, where, promote)


def _of_the_grid(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key.split(".")[0] in GRID_KEYS}


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


def _decided(factors: Factors, settings: Mapping[str, Any]) -> Iterator[str]:
    """A factor would overwrite a setting on one of its paths."""
    for key in settings:
        for name, factor in factors.items():
            if any(nested(key, path) for path in factor.paths):
                yield f"--set {key}: the factor {name!r} decides it; use --only '{name}=LEVEL'"


def _unknown_metric(grid: GridFile, base: Mapping[str, Any]) -> Iterator[str]:
    metric = grid.early_stopping.metric
    known = [f"val/{name}" for name in (*METRICS, *(own.name for own in own_metrics(base)))]
    if metric not in known:
        yield f"early_stopping.metric: unknown metric {metric!r}{did_you_mean(metric, known)}"


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
