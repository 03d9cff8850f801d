"""Read a YAML file into a pydantic model or a dataclass; every mistake names the file, the line and the key."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from longtail.errors import InvalidInput

Model = TypeVar("Model")
Lines = dict[tuple[str | int, ...], int]


def load_yaml(path: Path | str, model: type[Model]) -> Model:
    """Validate the file against `model`; an empty file gives the model's defaults.

    Raises:
        InvalidInput: unreadable file, broken YAML, a repeated or unknown key, or a value that does not fit.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    return parse_yaml(text, model, str(path))


def parse_yaml(text: str, model: type[Model], name: str = "<text>") -> Model:
    """`load_yaml` of a string; `name` is what the errors call it."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        lines: Lines = {(): 1}
        if root is not None:
            _collect(root, (), lines, name)
        data = loader.construct_document(root) if root is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}" if mark else ""
        raise InvalidInput(f"{name}{where}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise InvalidInput(f"{name} line 1: expected keys and values, found {type(data).__name__}")
    try:
        return TypeAdapter(model).validate_python(data)
    except ValidationError as error:
        raise InvalidInput("\n".join(_describe(e, lines, name) for e in error.errors())) from error


def _collect(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, name: str) -> None:
    """Note the line of every key and list entry below `node`; a repeated key is refused."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            if here in lines:
                raise InvalidInput(
                    f"{name} line {key.start_mark.line + 1}: {dotted(here)}: repeated, first on line {lines[here]}"
                )
            lines[here] = key.start_mark.line + 1
            _collect(value, here, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            _collect(value, (*path, index), lines, name)


def _describe(error: ErrorDetails, lines: Lines, name: str) -> str:
    location = known = written(error["loc"])
    while known not in lines:
        known = known[:-1]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "unknown key"
    elif error["type"] == "missing":
        message = "missing"
    elif error["type"] in ("model_type", "model_attributes_type", "dataclass_type", "dict_type"):
        message = "expected keys and values below it"
    elif error["type"] in ("tuple_type", "list_type"):
        message = "expected a list, such as [a, b]"
    elif error["type"] == "string_type":
        message += ', put it in "quotes"'
    return f"{name} line {lines[known]}: {dotted(location) or 'the file'}: {message}"


def written(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A place without the parts that stand in no file: which form of a union it is, and that a key is meant."""
    return tuple(part for part in path if not (isinstance(part, str) and part[:1] + part[-1:] in ("<>", "[]")))


def dotted(path: tuple[str | int, ...]) -> str:
    """`("boosts", 0, "factor")` as `boosts[0].factor`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
