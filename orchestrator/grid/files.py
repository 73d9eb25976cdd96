"""The files of a grid: the grid itself, the grids it includes, and its base configuration."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.grid.levels import level_name
from orchestrator.grid.read_factors import read_factors, written
from orchestrator.grid.schema import GridFile
from sagasr.config.faults import Faults
from sagasr.config.parsing import parse
from sagasr.config.patching import SHIPPED_RECORDINGS, located, patch
from sagasr.config.settings import Config
from sagasr.io.errors import ConfigError, did_you_mean, nearest
from sagasr.io.files import read_yaml

Tree = Mapping[str, Any]
GRID_KEYS, CONFIG_KEYS = frozenset(GridFile.model_fields), frozenset(Config.model_fields)


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
    faults = Faults()
    with faults.collecting(f"{path}: include: "):
        file = _file_of(name, path.parent)
        if file.resolve() in above:
            raise ConfigError(f"{name} includes this file in turn; leave one of the two out")
    faults.stop()
    below = _made_whole(with_included(read_yaml(file), file, above), file)
    if isinstance(below.get("factors"), Mapping) and isinstance(own.get("factors"), Mapping):
        own["factors"] = below["factors"] | own["factors"]
    return below | own


def _made_whole(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return an included grid as it can be read from any folder: absolute paths, factors spelt out."""
    faults = Faults(
        f"{file}: unknown key {key!r}{did_you_mean(key, GRID_KEYS)}" for key in tree if key not in GRID_KEYS
    )
    if isinstance(tree.get("factors"), Mapping):
        with faults.collecting(f"{file}: "):
            tree["factors"] = written(tree["factors"], read_factors(tree["factors"], file.parent))
    faults.stop()
    if isinstance(tree.get("base"), str):
        tree["base"] = str(_file_of(tree["base"], file.parent).absolute())
    if isinstance(tree.get("data"), Mapping):
        tree |= located({"data": tree["data"]}, file.parent)
    return tree


def _file_of(name: str, folder: Path) -> Path:
    """Return the file that a grid in ``folder`` names: one beside it, or a shipped one. Raises ConfigError."""
    beside = folder / name
    return beside if Path(name).name != name or (beside.exists() and not beside.is_dir()) else shipped(name, folder)


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
    """Return the base configuration's tree with the grid's data, the settings and absolute paths; checked alone.

    Raises ConfigError.
    """
    faults = Faults()
    with faults.collecting(f"{path}: base: "):
        file = _file_of(grid["base"], path.parent)
    faults.stop()
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
