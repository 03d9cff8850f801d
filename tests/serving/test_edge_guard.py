"""Keys, rates, sizes and request ids in front of an app, as a client meets them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from longtail.errors import InvalidInput
from longtail.yaml_model import parse_yaml
from serving.edge.guard import Guard, GuardConfig, Guarded, address_of
from serving.edge.keys import Keys, digest_of, new_key
from serving.edge.rate import TokenBuckets

ROOT = Path(__file__).resolve().parents[2]


async def echo(scope, receive, send):
    """Answers the size of the body, like any framework: reads until the end or until the client is gone."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("client gone")
        size += len(message["body"])
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(size).encode()})


def guard_of(text: str = "", clock=None) -> Guard:
    return Guard(parse_yaml(text, GuardConfig), *([clock] if clock else []))


def call(guard: Guard, method: str = "POST", path: str = "/x", **given) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(Guarded(echo, guard), client=given.pop("client", ("10.0.0.1", 1)))
        async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
            return await client.request(method, path, **given)

    return asyncio.run(go())


def test_without_configuration_everyone_may_ask():
    answer = call(guard_of(), content=b"x" * 1000)
    assert answer.status_code == 200 and answer.text == "1000"


def test_a_key_opens_the_door_in_either_header_and_only_the_right_key():
    key, other = new_key(), new_key()
    guard = guard_of(f'keys: [{{name: shop, sha256: "{digest_of(key.encode())}"}}]')
    assert call(guard, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert call(guard, headers={"X-API-Key": key}).status_code == 200
    for headers in ({}, {"X-API-Key": other}, {"Authorization": f"Basic {key}"}, {"X-API-Key": key + "x"}):
        answer = call(guard, headers=headers)
        assert answer.status_code == 401 and "API key" in answer.json()["error"]
        assert answer.headers["www-authenticate"] == "Bearer"


def test_probes_and_metrics_need_no_key_but_nothing_can_be_sent_there():
    guard = guard_of(f'keys: [{{name: shop, sha256: "{digest_of(b"k")}"}}]')
    assert call(guard, "GET", "/healthz").status_code == 200
    assert call(guard, "HEAD", "/metrics").status_code == 200
    assert call(guard, "POST", "/healthz").status_code == 401


def test_a_caller_over_its_rate_hears_when_to_come_back_and_others_are_not_held_up():
    now = [0.0]
    guard = guard_of("rate: {per_second: 2, burst: 3}", lambda: now[0])
    assert [call(guard).status_code for _ in range(4)] == [200, 200, 200, 429]
    answer = call(guard)
    assert answer.headers["retry-after"] == "1" and "0.5 s" in answer.json()["error"]
    assert call(guard, client=("10.0.0.2", 1)).status_code == 200
    assert call(guard, "GET", "/healthz").status_code == 200
    now[0] = 0.6
    assert [call(guard).status_code for _ in range(2)] == [200, 429]


def test_the_rate_is_counted_by_key_where_there_is_one():
    a, b = new_key(), new_key()
    guard = guard_of(
        f'keys:\n- {{name: a, sha256: "{digest_of(a.encode())}"}}\n- {{name: b, sha256: "{digest_of(b.encode())}"}}\n'
        "rate: {per_second: 1, burst: 1}",
        lambda: 0.0,
    )
    codes = [
        call(guard, headers={"X-API-Key": k}, client=(c, 1)).status_code for k, c in [(a, "x"), (a, "y"), (b, "x")]
    ]
    assert codes == [200, 429, 200]
    # Guessing keys is limited by address, and does not use up anybody's key.
    assert [call(guard, headers={"X-API-Key": "guess"}).status_code for _ in range(2)] == [401, 429]


def test_the_table_of_callers_is_bounded_and_keeps_the_recent():
    buckets = TokenBuckets(1, 1, size=10)
    for n in range(1000):
        assert buckets.take(str(n), 0.0) == 0
    assert len(buckets) == 10 and buckets.take("999", 0.0) == 1.0


def test_a_body_over_the_limit_is_413_whether_its_length_is_told_or_not():
    guard = guard_of("max_body_bytes: 2048")

    async def chunks():
        for _ in range(100):
            yield b"x" * 1000

    for content in (b"x" * 2049, chunks()):
        answer = call(guard, content=content)
        assert answer.status_code == 413 and "2048 bytes" in answer.json()["error"]
        assert answer.headers["x-request-id"]
    assert call(guard, content=b"x" * 2048).status_code == 200


def test_a_body_that_does_not_come_is_408():
    guard = guard_of("body_timeout_s: 0.05")

    async def go():
        sent = []

        async def receive():
            await asyncio.sleep(5)

        scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "client": ("1.1.1.1", 1)}
        await Guarded(echo, guard)(scope, receive, lambda m: _keep(sent, m))
        return sent

    async def _keep(sent, message):
        sent.append(message)

    sent = asyncio.run(asyncio.wait_for(go(), 4))
    assert sent[0]["status"] == 408 and b"0.05 s" in sent[1]["body"]


def test_a_request_id_comes_back_and_a_strange_one_is_replaced():
    assert call(guard_of(), headers={"X-Request-Id": "abc-1:2"}).headers["x-request-id"] == "abc-1:2"
    for strange in ("a b", "x" * 129, "<script>"):
        made = call(guard_of(), headers={"X-Request-Id": strange}).headers["x-request-id"]
        assert made != strange and len(made) == 32
    assert call(guard_of()).headers["x-request-id"] != call(guard_of()).headers["x-request-id"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("keys: [{name: a, sha256: abc}]", "line 1: keys[0].sha256"),
        ("keys: [{name: 'a b', sha256: abc}]", "keys[0].name"),
        ("rate: {per_second: 0}", "line 1: rate.per_second"),
        ("\nmax_body: 5", "line 2: max_body: unknown key"),
        (f"keys: [{{name: a, sha256: '{digest_of(b'1')}'}}, {{name: a, sha256: '{digest_of(b'2')}'}}]", "named twice"),
    ],
)
def test_a_wrong_configuration_names_line_and_key(text, problem):
    with pytest.raises(InvalidInput) as error:
        guard_of(text)
    assert problem in str(error.value)


def test_a_changed_file_is_followed_and_a_wrong_one_replaces_nothing(tmp_path):
    path = tmp_path / "edge.yaml"
    path.write_text("")
    guard = Guard.load(path)
    now = [0.0]
    guard._clock = lambda: now[0]
    assert call(guard).status_code == 200
    key = new_key()
    path.write_text(f'keys: [{{name: a, sha256: "{digest_of(key.encode())}"}}]')
    now[0] += 2
    assert call(guard).status_code == 401 and call(guard, headers={"X-API-Key": key}).status_code == 200
    path.write_text("keys: {")
    now[0] += 2
    assert call(guard).status_code == 401 and call(guard, headers={"X-API-Key": key}).status_code == 200
    path.unlink()
    now[0] += 2
    assert call(guard).status_code == 401


def test_a_change_of_keys_leaves_the_rates_as_they_are(tmp_path):
    path = tmp_path / "edge.yaml"
    path.write_text("rate: {per_second: 0.01, burst: 1}")
    guard = Guard.load(path)
    assert call(guard).status_code == 200
    path.write_text("rate: {per_second: 0.01, burst: 1}\nmax_body_bytes: 5000")
    guard._next_look = 0
    assert call(guard, content=b"x" * 6000).status_code == 413
    assert call(guard).status_code == 429


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.yaml cannot be read"):
        Guard.load(tmp_path / "none.yaml")


def test_the_command_prints_a_key_that_its_line_lets_in():
    ran = subprocess.run(
        [sys.executable, "-m", "serving.edge.keys", "new", "shop"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    first, _, line = ran.stdout.splitlines()
    key = first.split(": ")[1]
    guard = guard_of(f"keys:\n{line}")
    assert call(guard, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert key not in line
    wrong = subprocess.run([sys.executable, "-m", "serving.edge.keys", "new", "a b"], cwd=ROOT, capture_output=True)
    assert wrong.returncode == 2 and b"letters" in wrong.stderr


def test_keys_are_256_bits_and_known_by_digest_only():
    key = new_key()
    assert len(key) == 3 + 43
    keys = Keys({"a": digest_of(key.encode())})
    assert keys.name_of(key.encode()) == "a" and keys.name_of(b"") is None
    assert key not in json.dumps(vars(keys), default=str)


@pytest.mark.parametrize(
    ("host", "caller"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("testclient", "testclient"),
    ],
)
def test_callers_are_told_apart_by_what_one_subscriber_gets(host, caller):
    assert address_of({"client": (host, 5)}) == caller
    assert address_of({}) == "unknown"


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_app_that_breaks_is_answered_for_and_its_client_told_no_inside(when):
    async def broken(scope, receive, send):
        if when == "after":
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"own words"})
        raise ZeroDivisionError("inside")

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(Guarded(broken, guard_of()))
        async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
            return await client.post("/x")

    answer = asyncio.run(go())
    assert answer.status_code == 500 and "inside" not in answer.text
    assert answer.text == "own words" if when == "after" else answer.json()["error"]
