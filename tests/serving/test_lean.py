"""What a serving process settles before it imports anything."""

from __future__ import annotations

import os
import subprocess
import sys

from serving.lean import WAITING

CHANNEL = "import grpc; grpc.insecure_channel('127.0.0.1:1').close()"


def said(experiments: str) -> str:
    """What gRPC has to say about the settings."""
    env = os.environ | {"GRPC_EXPERIMENTS": experiments, "GRPC_VERBOSITY": "error"}
    return subprocess.run([sys.executable, "-c", CHANNEL], env=env, capture_output=True, text=True, check=True).stderr


def test_the_installed_grpc_knows_how_it_is_to_wait() -> None:
    assert "Unknown experiment: no_such_thing" in said(f"{WAITING},-no_such_thing")
    assert "Unknown experiment" not in said(WAITING)


def test_servers_tell_grpc_before_it_is_imported_and_an_owner_can_say_otherwise() -> None:
    for name in ("recommender", "retriever"):
        asked = f"""
import runpy, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            import os
            print(os.environ.get("GRPC_EXPERIMENTS"))
            sys.exit(0)

sys.meta_path.insert(0, Watch())
runpy.run_module("serving.{name}", run_name="__main__")
"""
        for given, expected in ((None, WAITING), ("-event_engine_dns", "-event_engine_dns")):
            env = {k: v for k, v in os.environ.items() if k != "GRPC_EXPERIMENTS"}
            env |= {} if given is None else {"GRPC_EXPERIMENTS": given}
            found = subprocess.run([sys.executable, "-c", asked], env=env, capture_output=True, text=True, check=True)
            assert found.stdout.strip() == expected, name
