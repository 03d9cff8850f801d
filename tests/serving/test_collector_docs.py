"""serving/README.md tells every key of the collector's configuration, with the default that holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from serving.collector.config import CollectorConfig, KafkaConfig

README = Path(__file__).resolve().parents[2] / "serving" / "README.md"


@pytest.fixture(scope="module")
def shown() -> dict:
    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.S) if "horizon_days" in b]
    return yaml.safe_load(block)


def keys(model: type[BaseModel]) -> set[str]:
    """Names of all keys, dotted."""
    found = set()
    for name, field in model.model_fields.items():
        inner = KafkaConfig if name == "kafka" else field.annotation
        found.add(name)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= {f"{name}.{key}" for key in keys(inner)}
    return found


def test_every_key_is_shown(shown: dict):
    dotted = {f"{name}.{key}" for name, part in shown.items() if isinstance(part, dict) for key in part}
    assert shown.keys() | dotted == keys(CollectorConfig)


def test_the_values_are_the_defaults(shown: dict):
    config = CollectorConfig.model_validate(shown)
    assert config.model_copy(update={"kafka": None}) == CollectorConfig()
    assert config.kafka == KafkaConfig(servers=shown["kafka"]["servers"])
