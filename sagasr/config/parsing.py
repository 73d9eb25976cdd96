"""Trees of files as strict models; faults are told in the words of a file's author, not in those of pydantic."""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

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
        tree = _with_whole_numbers(tree)  # 1e4 steps are 10000; seldom, so only where something is wrong
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {odd_value(tree) or error}") from error
    try:
        return model.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {fault}" for fault in _faults(model, tree, error))) from error


def _with_whole_numbers(tree: Any) -> Any:
    """Return a tree with numbers such as 1e4 as the integers that they are; fractions want no other form of them."""
    if isinstance(tree, Mapping):
        return {key: _with_whole_numbers(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_with_whole_numbers(value) for value in tree]
    whole = isinstance(tree, float) and tree.is_integer() and abs(tree) < 2**53
    return int(tree) if whole else tree


@cache
def setting_paths(model: type[BaseModel], prefix: str = "") -> tuple[str, ...]:
    """Return the dotted path of every setting that some configuration has, sections opened."""
    found: dict[str, None] = {}
    for name, field in model.model_fields.items():
        inner = [path for one in _models_in(field.annotation) for path in setting_paths(one, f"{prefix}{name}.")]
        found |= dict.fromkeys(inner or [f"{prefix}{name}"])
    return tuple(found)


def _faults(model: type[BaseModel], tree: Mapping[str, Any], error: ValidationError) -> list[str]:
    lines = []
    found = error.errors()
    unknown = [str(fault["loc"][-1]) for fault in found if fault["type"] == "extra_forbidden"]
    for fault in found:
        location = [part for part in fault["loc"] if not _is_union_tag(part, tree, fault["loc"])]
        path = ".".join(map(str, location)) or "(top level)"
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {path!r}{did_you_mean(str(location[-1]), _siblings(model, fault['loc']))}")
        elif fault["type"] == "missing":
            if not nearest(str(location[-1]), unknown):  # else it is there, misspelt, and said so
                lines.append(f"{path} is missing; add it")
        elif fault["type"] in ("literal_error", "union_tag_invalid"):
            lines.append(f"{path}: {_one_of(fault)}")
        elif fault["type"] == "too_long" and isinstance(fault["input"], (list, tuple)):
            most, found_here = fault["ctx"]["max_length"], fault["ctx"]["actual_length"]
            lines.append(f"{path}: expected at most {most} values{_example(model, fault['loc'])} (found {found_here})")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] in FORMS:
                message = f"expected {FORMS[fault['type']]}{_example(model, fault['loc'])}"
            given = fault["input"]
            told = isinstance(given, str) and repr(given) in message
            plain = isinstance(given, (str, int, float, bool, type(None)))
            shown = f" (found {given!r})" if plain and not told else ""
            lines.append(f"{path}: {message[:1].lower()}{message[1:]}{shown}")
    return lines


# what pydantic calls arrays and objects, as a person writes them
FORMS = {
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("model_type", "dict_type", "model_attributes_type"), "keys with values"),
}


def _example(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return what may stand at a location: the example its key has, or else its default."""
    fields = (one.model_fields.get(str(location[-1])) for one in _models_at(model, location) if location)
    for field in fields:
        if field is None:
            continue
        if field.examples:
            return f", such as {field.examples[0]}"
        if isinstance(field.default, tuple) and field.default:
            return f", such as [{', '.join(map(str, field.default))}]"
        keys = [name for found in _models_in(field.annotation) for name in found.model_fields]
        if keys:
            return f", such as {keys[0]}"
    return ""


def _one_of(fault: Any) -> str:
    """Return what a word that is none of those known may have been meant as."""
    context = fault["ctx"]
    listed = context["expected" if fault["type"] == "literal_error" else "expected_tags"]
    words = re.findall(r"'([^']*)'", listed) or [listed]
    given = context.get("tag", fault["input"])
    return f"{given!r} is none of {', '.join(words)}{nearest(str(given), words)}"


def _is_union_tag(part: object, tree: Any, location: tuple[int | str, ...]) -> bool:
    """Discriminated unions add their tag to the location; it is not a key of the file."""
    node: Any = tree
    for key in location[: location.index(part)]:  # type: ignore[arg-type]
        node = node.get(key, node) if isinstance(node, Mapping) else node
    return isinstance(node, Mapping) and node.get("kind") == part and part not in node


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys allowed where an unknown one stood."""
    return [name for found in _models_at(model, location) for name in found.model_fields]


def _models_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """Return the models that a location's last key may belong to; a union's tag in it says which kind it is."""
    here: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        tagged = [m for m in here if "kind" in m.model_fields and part in _words_in(m.model_fields["kind"].annotation)]
        annotations = [m.model_fields[str(part)].annotation for m in here if str(part) in m.model_fields]
        here = tagged or [found for annotation in annotations for found in _models_in(annotation)] or here
    return here


def _words_in(literal: Any) -> tuple[Any, ...]:
    return getattr(literal, "__args__", ())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]
