"""A real Kafka broker on free loopback ports: one node in KRaft mode, run from its jars on Maven Central."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from serving.process import LOOPBACK, free_port, spawn, stop, tail

VERSION = "4.1.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longtail" / f"kafka-{VERSION}"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>longtail</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
  </dependencies>
</project>
"""
SETTINGS = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/data
num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=true
log.flush.interval.messages=1
"""


def why_no_kafka() -> str | None:
    """None where a broker can be started; the first call downloads 43 MB of jars once."""
    for program, package in (("java", "Java 17"), ("mvn", "Maven")):
        if not _jars() and program == "mvn" and not shutil.which(program):
            return f"{package} is not installed, it fetches Kafka's jars"
        if program == "java" and not shutil.which(program):
            return f"{package} is not installed, Kafka runs on it"
    return None if _jars() or _fetch() else f"Kafka's jars could not be fetched, see {CACHE}/fetch.log"


def _jars() -> bool:
    return (CACHE / "complete").is_file()


def _fetch() -> bool:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once fetch once
        if _jars():
            return True
        (CACHE / "pom.xml").write_text(POM)
        argv = ["mvn", "-q", "-B", "-f", "pom.xml", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
        with (CACHE / "fetch.log").open("w") as log:
            done = subprocess.run(argv, cwd=CACHE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=600)
        if done.returncode == 0:
            (CACHE / "complete").touch()
        return done.returncode == 0


class Kafka:
    """A broker whose data survives `kill` and `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.controller = free_port(), free_port()
        self.servers = f"{LOOPBACK}:{self.port}"
        self.log = folder / "kafka.log"
        self.process: subprocess.Popen | None = None

    def start(self, timeout_s: float = 60.0) -> Kafka:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "server.properties"
        if not settings.exists():
            ports = {"host": LOOPBACK, "port": self.port, "controller": self.controller, "folder": self.folder}
            settings.write_text(SETTINGS.format(**ports))
            argv = self._java("kafka.tools.StorageTool", "format", "-t", "bG9uZ3RhaWwtdGVzdHMtMQ", "-c", str(settings))
            subprocess.run(argv, check=True, capture_output=True, timeout=60)
        self.process = spawn(self._java("kafka.Kafka", str(settings)), self.log)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((LOOPBACK, self.port)) == 0:
                    return self
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"Kafka did not start:\n{tail(self.log)}")

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)
            self.process = None

    def _java(self, main: str, *words: str) -> list[str]:
        return ["java", "-Xmx384m", "-XX:+UseSerialGC", "-cp", f"{CACHE}/jars/*", main, *words]

    def __enter__(self) -> Kafka:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
