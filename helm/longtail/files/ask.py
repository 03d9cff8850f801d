"""Asks the recommender for a full list, for as long as a rollout may take; exit code 0 when one came."""

import json
import os
import sys
import time
import urllib.request

url = f"{sys.argv[1]}/v1/models/recommender:predict"
body = json.dumps({"instances": [{"k": 5}]}).encode()
headers = {"Content-Type": "application/json"}
if key := os.environ.get("API_KEY"):
    headers["Authorization"] = f"Bearer {key}"
said, deadline = "", time.monotonic() + 120
while time.monotonic() < deadline:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as reply:
            answer = json.load(reply)["predictions"][0]
        said = f"{len(answer['items'])} items, level {answer['level']}, bundle {answer['model_version']}"
        if answer["items"] and answer["level"] == "full":
            sys.exit(print(said))
    except (OSError, ValueError, KeyError) as error:
        said = f"{type(error).__name__}: {error}"
    time.sleep(2)
sys.exit(f"no full list from {url} within 120 s; last: {said}")
