"""The OpenAPI document and its page: valid, complete, true to the code, and nothing loaded from elsewhere."""

from __future__ import annotations

import re

import httpx
import jsonschema_rs
import pytest
import schemathesis

from longtail.engine import schema as protocol
from longtail.schema import EVENT_EXTRAS, EVENT_SCHEMA
from serving.edge.app import Edge
from serving.edge.describe import DESCRIPTIONS
from serving.edge.guard import Guard, GuardConfig
from serving.edge.openapi import build
from serving.edge.pages import pages
from tests.serving.live_app import live

HTTP = {"get", "post", "put", "delete", "head", "options", "patch", "trace"}


@pytest.fixture(scope="module")
def served():
    async def nothing(scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with live(Edge(nothing, None, Guard(GuardConfig()), pages())) as url:
        yield url


def test_it_is_served_as_it_is_built(served):
    answer = httpx.get(served + "/openapi.json")
    assert answer.headers["content-type"] == "application/json" and answer.json() == build()
    assert int(httpx.head(served + "/docs").headers["content-length"]) == len(httpx.get(served + "/docs").content)
    assert httpx.post(served + "/docs").status_code == 404


def test_a_tool_that_reads_openapi_reads_every_operation():
    schema = schemathesis.openapi.from_dict(build())
    operations = [result.ok().label for result in schema.get_all_operations()]
    assert len(operations) == 6 and "POST /v1/models/recommender:predict" in operations
    schema.validate()


def references(node: object):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere():
    document = build()
    for found in set(references(document)):
        node = document
        for part in found.removeprefix("#/").split("/"):
            node = node[part]


def test_every_field_operation_and_answer_is_described():
    document = build()
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, prop in schema["properties"].items():
            assert prop.get("description"), f"{name}.{field} has no description: add it in serving/edge/describe.py"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in HTTP and operation["summary"] and operation["tags"], path
            assert all(answer["description"] for answer in operation["responses"].values())


def test_nothing_is_described_that_does_not_exist():
    schemas = build()["components"]["schemas"]
    for name, fields in DESCRIPTIONS.items():
        assert fields.keys() == schemas[name]["properties"].keys(), name


def test_the_event_has_the_columns_of_the_contract():
    columns = {f.name for f in (*EVENT_SCHEMA, *EVENT_EXTRAS)}
    assert build()["components"]["schemas"]["Event"]["properties"].keys() == columns


def test_the_examples_fit_their_schemas():
    document = build()
    for methods in document["paths"].values():
        for operation in methods.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content:
                rooted = {**content["schema"], "components": document["components"]}
                jsonschema_rs.validator_for(rooted).validate(content["example"])
    protocol.parse(document["paths"]["/v1/models/recommender:predict"]["post"]["requestBody"]["content"]
                   ["application/json"]["example"])  # fmt: skip


@pytest.mark.parametrize(
    ("instance", "fits"),
    [
        ({"user_id": 17, "k": 3}, True),
        ({"context": {"events": [{"item_id": 5, "event_type": "click"}], "more": 1}}, True),
        ({"k": 0}, False),
        ({"colour": "red"}, False),
        ({"context": {"events": [{"item_id": "a", "event_type": "sneeze"}]}}, False),
        ({"surface": ""}, False),
        ({"context": {"age": 151}}, False),
    ],
)
def test_the_document_and_the_server_agree_on_what_is_right(instance, fits):
    rooted = {"$ref": "#/components/schemas/Request", "components": build()["components"]}
    body = {"instances": [instance]}
    assert jsonschema_rs.validator_for(rooted).is_valid(body) is fits
    try:
        protocol.parse(body)
        parsed = True
    except protocol.InvalidInput:
        parsed = False
    assert parsed is fits


def test_the_page_loads_nothing_from_elsewhere(served):
    answer = httpx.get(served + "/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", answer.text) and "innerHTML" not in answer.text
