"""What the edge lets people and tools read: the OpenAPI document, and a page that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.edge.http import JSON, Header
from serving.edge.openapi import document

DOCS = Path(__file__).with_name("docs.html")
# The page holds its own style and script, loads nothing from elsewhere and talks to this server only.
POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class StaticPage:
    """Bytes that never change while the server runs."""

    content: bytes
    content_type: bytes
    headers: tuple[Header, ...] = ((b"cache-control", b"no-cache"), (b"x-content-type-options", b"nosniff"))


def pages() -> Mapping[str, StaticPage]:
    """The pages by path."""
    docs = StaticPage(DOCS.read_bytes(), b"text/html; charset=utf-8")
    policy = (b"content-security-policy", POLICY)
    return {
        "/openapi.json": StaticPage(document(), JSON),
        "/docs": StaticPage(docs.content, docs.content_type, (*docs.headers, policy)),
    }
