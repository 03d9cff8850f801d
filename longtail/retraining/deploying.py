"""Put the champion that a local run registered in front of people, as `longtail deploy` does."""

from __future__ import annotations

from longtail.engine.deployment import DEPLOYMENT, Deployment
from longtail.errors import InvalidInput
from longtail.retraining.policy import Servers
from longtail.retraining.program import last_line, run_program

STARTING_S = 120.0  # what the program itself may take beside its wait for the servers


def deploy(servers: Servers, registry: str, version: int, lock: int) -> tuple[bool, str]:
    """(whether the version serves, what is told of it).

    It is proven by a real recommendation first, and what served goes on where that fails; it can be repeated. A
    challenger keeps its people, and experiments go on. `lock` is a descriptor that the program inherits.
    """
    words = ["deploy", str(version), "--registry", registry, "--state", str(servers.state), "--url", servers.url,
             "--timeout-s", str(servers.timeout_s)]  # fmt: skip
    try:
        beside = _challenger(servers)
    except InvalidInput as error:
        return False, str(error)
    hours = (servers.timeout_s + STARTING_S) / 3600
    code, said = run_program("longtail.cli", [*words, *beside], None, lock, hours)
    return not code, last_line(said).removeprefix("longtail: ") or f"exit code {code}"


def _challenger(servers: Servers) -> list[str]:
    file = servers.state / DEPLOYMENT
    variants = dict(Deployment.load(file).variants) if file.is_file() else {}
    other = variants.get("challenger")
    return ["--challenger", str(other.bundle), "--share", str(other.share)] if other else []
