"""Trees of files as strict models; faults are told in the words of a file's author, not in those of pydantic."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sagasr.io.errors import ConfigError, did_you_mean, nearest
from sagasr.io.files import odd_value

M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], tree: Mapping[str, Any], source: str) -> M:
    """Return ``tree`` as ``model``. Raises ConfigError: one line per fault, each with file, key and remedy."""
    try:
        # Through JSON: strict types, and lists become tuples.
        return model.model_validate_json(json.dumps(tree, allow_nan=False))
    except ValidationError:
        tree = map_leaves(_whole, tree)  # 1e4 steps are 10000; seldom, so only where something is wrong
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {odd_value(tree) or error}") from error
    try:
        return model.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {fault}" for fault in _lines(model, error))) from error


def map_leaves(change: Callable[[Any], Any], tree: Any) -> Any:
    """Return nested mappings and lists with every other value changed."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(change, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [map_leaves(change, value) for value in tree]
    return change(tree)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


@cache
def setting_paths(model: type[BaseModel], prefix: str = "") -> tuple[str, ...]:
    """Return the dotted path of every setting that some configuration has, sections opened."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        inner = [path for part in _models_in(field.annotation) for path in setting_paths(part, f"{prefix}{name}.")]
        paths += inner or [f"{prefix}{name}"]
    return tuple(dict.fromkeys(paths))


def _lines(model: type[BaseModel], error: ValidationError) -> list[str]:
    faults = error.errors()
    unknown = [str(fault["loc"][-1]) for fault in faults if fault["type"] == "extra_forbidden"]
    return [line for fault in faults if (line := _line(fault, unknown, *_place(model, fault["loc"])))]


def _line(fault: Any, unknown: list[str], location: list[str], owners: list[type[BaseModel]]) -> str | None:
    """Return what is wrong at a location, in one line; None where the key is there, misspelt, and said so."""
    path, given = ".".join(location) or "(top level)", fault["input"]
    match fault["type"]:
        case "extra_forbidden":
            known = (name for owner in owners for name in owner.model_fields)
            return f"unknown key {path!r}{did_you_mean(location[-1], known)}"
        case "missing":
            return None if nearest(location[-1], unknown) else f"{path} is missing; add it"
        case "literal_error" | "union_tag_invalid":
            return f"{path}: {_one_of(fault)}"
        case "too_long" if isinstance(given, (list, tuple)):
            most, count = fault["ctx"]["max_length"], fault["ctx"]["actual_length"]
            return f"{path}: expected at most {most} values{_example(location, owners)} (found {count})"
        case "tuple_type" | "list_type":
            message = f"expected a list{_example(location, owners)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            message = f"expected keys with values{_example(location, owners)}"
        case _:
            message = fault["msg"].removeprefix("Value error, ")
    named = isinstance(given, str) and repr(given) in message
    shown = f" (found {given!r})" if isinstance(given, str | int | float | None) and not named else ""
    return f"{path}: {message[:1].lower()}{message[1:]}{shown}"


def _example(location: list[str], owners: list[type[BaseModel]]) -> str:
    """Return what may stand at a location: the example its key has, or else its default."""
    for field in (owner.model_fields[location[-1]] for owner in owners if location[-1] in owner.model_fields):
        if field.examples:
            return f", such as {field.examples[0]}"
        if isinstance(field.default, tuple) and field.default:
            return f", such as [{', '.join(map(str, field.default))}]"
        for name in (name for inner in _models_in(field.annotation) for name in inner.model_fields):
            return f", such as {name}"
    return ""


def _one_of(fault: Any) -> str:
    """Return what a word that is none of those known may have been meant as."""
    context = fault["ctx"]
    listed = context["expected" if fault["type"] == "literal_error" else "expected_tags"]
    words = re.findall(r"'([^']*)'", listed) or [listed]
    given = context.get("tag", fault["input"])
    return f"{given!r} is none of {', '.join(words)}{nearest(str(given), words)}"


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the keys of a location, without the kind that pydantic puts there, and the models of its last key."""
    here = owners = [model]
    path = []
    for part in map(str, location):
        kinds = [get_args(m.model_fields["kind"].annotation) if "kind" in m.model_fields else () for m in here]
        if len(here) > 1 and any(part in words for words in kinds):
            here = [m for m, words in zip(here, kinds, strict=True) if part in words]
            continue
        path.append(part)
        owners = here
        annotations = [owner.model_fields[part].annotation for owner in owners if part in owner.model_fields]
        here = [inner for annotation in annotations for inner in _models_in(annotation)] or here
    return path, owners


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
