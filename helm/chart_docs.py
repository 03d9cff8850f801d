"""Writes what follows from the comments of `helm/longtail/values.yaml`: a JSON schema, and the table in the README.

    python -m helm.chart_docs           writes both
    python -m helm.chart_docs --check   exit code 1 when one of them differs from the comments

A value's comment is the lines right above its key. The last of them may be `@schema {...}`: JSON Schema keywords, as
YAML, beside the type that the default has. A value without a comment is refused here, an unknown key by the schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "longtail"
MARK = "@schema "
BEGIN, END = "<!-- values: written by make chart-docs -->", "<!-- end of values -->"
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
QUANTITY = {"type": ["string", "number"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
DEFINITIONS = {
    "quantity": QUANTITY,
    "resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            part: {"type": "object", "additionalProperties": {"$ref": "#/definitions/quantity"}}
            for part in ("requests", "limits")
        },
    },
    "schedule": {"type": "string", "pattern": r"^$|^(\S+ ){4}\S+$|^@(hourly|daily|weekly|monthly)$"},
}


@dataclass
class Value:
    """One key of values.yaml: its dotted path, default, comment and JSON Schema keywords; `inner` where it has keys."""

    path: str
    default: Any
    about: str
    keywords: dict[str, Any]
    inner: list[Value]

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of this value."""
        about = {"description": self.about} if self.about else {}
        if "$ref" in self.keywords:
            return {**about, "allOf": [self.keywords]}
        if self.inner:
            return {**about, **object_of(self.inner)}
        number = isinstance(self.default, (int, float)) and not isinstance(self.default, bool)
        fraction = number and any(isinstance(v, float) for v in [self.default, *self.keywords.values()])
        return {**about, "type": "number" if fraction else TYPES[type(self.default)], **self.keywords}

    def rows(self) -> Iterator[str]:
        """The table's rows of this value and what is in it."""
        if self.inner:
            if self.about:
                yield f"| **`{self.path}`** | | {self.about} |"
            for value in self.inner:
                yield from value.rows()
            return
        yield f"| `{self.path}` | `{json.dumps(self.default, ensure_ascii=False)}` | {self.about} |"


def object_of(values: list[Value]) -> dict[str, Any]:
    """The JSON Schema of a mapping that has these keys and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path.rpartition(".")[2]: value.schema for value in values},
    }


def read(node: yaml.MappingNode, lines: list[str], above: str = "") -> list[Value]:
    """The keys of a mapping.

    Raises:
        ValueError: a key that holds a value has no comment; the message names it.
    """
    found = []
    for key, value in node.value:
        path = f"{above}.{key.value}" if above else key.value
        said, keywords = comment(lines, key.start_mark.line)
        default = yaml.safe_load(yaml.serialize(value))
        free = {"additionalProperties", "$ref", "type"} & set(keywords)
        nested = isinstance(value, yaml.MappingNode) and value.value and not free
        if not nested and not said:
            raise ValueError(f"values.yaml: {path} has no comment above it")
        found.append(Value(path, default, said, keywords, read(value, lines, path) if nested else []))
    return found


def comment(lines: list[str], line: int) -> tuple[str, dict[str, Any]]:
    """The text and the keywords of the comment right above a line."""
    said: list[str] = []
    while line and lines[line - 1].strip().startswith("#"):
        line -= 1
        said.insert(0, lines[line].strip().removeprefix("#").strip())
    keywords = yaml.safe_load(said.pop().removeprefix(MARK)) if said and said[-1].startswith(MARK) else {}
    return " ".join(said), keywords


def written() -> dict[Path, str]:
    """What the files should say, by path."""
    text = (CHART / "values.yaml").read_text()
    values = read(yaml.compose(text), text.splitlines())
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "longtail", **object_of(values)}
    # What a chart around this one shares with all of its parts.
    schema["properties"]["global"] = {"type": "object"}
    schema["definitions"] = DEFINITIONS
    rows = ["| value | default | meaning |", "| --- | --- | --- |", *(row for value in values for row in value.rows())]
    readme = CHART / "README.md"
    head, _, rest = readme.read_text().partition(BEGIN)
    table = "\n".join([BEGIN, *rows, END])
    return {
        CHART / "values.schema.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n",
        readme: head + table + rest.partition(END)[2],
    }


def main(check: bool) -> int:
    """Write the files, or tell which differ."""
    differ = [path for path, text in written().items() if not path.is_file() or path.read_text() != text]
    for path in differ:
        if check:
            print(f"{path.name} differs from the comments of values.yaml: run `make chart-docs`", file=sys.stderr)
        else:
            path.write_text(written()[path])
    return int(check and bool(differ))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
