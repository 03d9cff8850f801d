"""A platform file: what of it reaches the compiled pipeline, and how mistakes are answered."""

import json
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from longtail.errors import InvalidInput
from pipelines import compile as compiling
from pipelines.platform import Platform

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "platform.example.yaml"


@pytest.fixture(scope="module")
def compiled() -> tuple[dict, dict]:
    """The training pipeline and its Kubernetes settings, under the example, as kfp's own types read them."""
    return read("training")


def read(name: str) -> tuple[dict, dict]:
    pipeline, platform = yaml.safe_load_all(compiling.compiled(name, Platform.load(EXAMPLE)))
    json_format.ParseDict(pipeline, PipelineSpec())
    json_format.ParseDict(platform, PlatformSpec())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def kubernetes(compiled, step: str) -> KubernetesExecutorConfig:
    return json_format.ParseDict(compiled[1][f"exec-{step}"], KubernetesExecutorConfig())


def container(compiled, step: str) -> dict:
    return compiled[0]["deploymentSpec"]["executors"][f"exec-{step}"]["container"]


def test_the_gpu_step_asks_for_its_gpu_and_goes_where_gpus_are(compiled):
    assert container(compiled, "train-two-tower")["image"].endswith("longtail-pipelines:0.1.0")
    resources = container(compiled, "train-two-tower")["resources"]
    assert resources["accelerator"] == {
        "type": "nvidia.com/gpu", "count": "1", "resourceType": "nvidia.com/gpu", "resourceCount": "1"
    }  # fmt: skip
    assert resources["resourceMemoryLimit"] == "32Gi" and resources["resourceMemoryRequest"] == "16Gi"
    assert resources["resourceCpuRequest"] == "1" and resources["resourceCpuLimit"] == "4"  # the defaults'
    config = kubernetes(compiled, "train-two-tower")
    assert dict(config.node_selector.labels) == {"pool": "gpu"}
    assert [(t.key, t.operator, t.effect) for t in config.tolerations] == [("nvidia.com/gpu", "Exists", "NoSchedule")]
    (shm,) = config.empty_dir_mounts
    assert (shm.mount_path, shm.medium, shm.size_limit) == ("/dev/shm", "Memory", "8Gi")
    assert config.active_deadline_seconds == 21600


def test_every_other_step_gets_the_defaults_and_no_gpu(compiled):
    steps = [name.removeprefix("exec-") for name in compiled[1]]
    assert len(steps) == 10
    deciding = {"register", "deploy"}
    for step in set(steps) - {"train-two-tower"}:
        image = container(compiled, step)["image"]
        assert image == f"registry.example/{'shop-ingest' if step == 'ingest' else 'longtail-pipelines'}:0.1.0"
        assert "accelerator" not in container(compiled, step)["resources"]
        config = kubernetes(compiled, step)
        assert dict(config.node_selector.labels) == {"pool": "batch"}
        assert [(t.key, t.value) for t in config.tolerations] == [("batch", "true")]
        assert config.active_deadline_seconds == 7200
        variables = {v["name"]: v["value"] for v in container(compiled, step)["env"]}
        assert ("LONGTAIL_AUDIT" in variables) == (step in deciding)
        assert step in deciding or variables == {"OMP_NUM_THREADS": "4"}
    for step in steps:
        config = kubernetes(compiled, step)
        volumes = [(v.constant, v.mount_path, v.sub_path) for v in config.pvc_mount]
        assert volumes[-1] == ("longtail-shop", "/mnt/shop", "current")
        assert volumes[:-1] == ([("longtail-audit", "/mnt/audit", "")] if step in deciding else [])
        (secret,) = config.secret_as_env
        assert secret.secret_name == "longtail-pseudonyms"
        assert [(k.secret_key, k.env_var) for k in secret.key_to_env] == [("key", "LONGTAIL_PSEUDONYM_KEY")]
        assert config.image_pull_policy == "IfNotPresent"
        assert [s.secret_name for s in config.image_pull_secret] == ["registry"]
    (files,) = kubernetes(compiled, "ingest").secret_as_volume
    assert (files.secret_name, files.mount_path, files.optional) == ("warehouse", "/var/secrets/warehouse", True)


def test_failed_steps_are_tried_again_later_and_later_unless_they_say_not(compiled):
    tasks = compiled[0]["root"]["dag"]["tasks"]
    expected = {"maxRetryCount": 2, "backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "600s"}
    assert tasks["ingest"]["retryPolicy"] == tasks["train-two-tower"]["retryPolicy"] == expected
    assert "retryPolicy" not in tasks["register"]


def test_what_reads_or_writes_outside_the_artifacts_is_never_taken_from_the_cache(compiled):
    tasks = compiled[0]["root"]["dag"]["tasks"]
    cached = {name: task["cachingOptions"].get("enableCache", False) for name, task in tasks.items()}
    assert sorted(name for name, on in cached.items() if not on) == ["deploy", "ingest", "off-policy", "register"]


def test_a_run_ends_by_putting_the_champion_in_front_of_people_where_the_file_says_so(compiled):
    task = compiled[0]["root"]["dag"]["tasks"]["deploy"]
    assert task["dependentTasks"] == ["register"]
    given = task["inputs"]["parameters"]
    assert given["registry"] == {"componentInputParameter": "registry"}
    constants = {name: value["runtimeValue"]["constant"] for name, value in given.items() if name != "registry"}
    assert constants == {
        "version": "champion", "variant": "champion", "share": 0, "namespace": "shop", "release": "longtail",
        "storage": "mlflow-artifacts:/=s3://recommender/mlflow", "url": "", "timeout_s": 1800,
    }  # fmt: skip
    assert "comp-deploy" not in compiling.compiled("training")


def test_every_pipeline_compiles_for_a_platform_with_its_gpu_step():
    gpus = {
        name: [step for step, executor in read(name)[0]["deploymentSpec"]["executors"].items()
               if "accelerator" in executor["container"]["resources"]]
        for name in compiling.PIPELINES
    }  # fmt: skip
    assert gpus == {"training": ["exec-train-two-tower"], "incremental": ["exec-warm-two-tower"], "deploy": [],
                    "monitoring": []}  # fmt: skip


def test_on_several_nodes_the_gpus_are_the_nodes_and_the_step_only_waits(tmp_path):
    text = EXAMPLE.read_text().replace("  train_two_tower: &gpu\n", """  train_two_tower: &gpu
    volumes: [{claim: training, mount: /mnt/training}]
""").replace("    # train_job:", "    train_job:").replace("  warm_two_tower: *gpu\n", "")  # fmt: skip
    (tmp_path / "platform.yaml").write_text(text)
    pipeline, platform = yaml.safe_load_all(compiling.compiled("training", Platform.load(tmp_path / "platform.yaml")))
    step = pipeline["deploymentSpec"]["executors"]["exec-train-two-tower"]["container"]
    assert "accelerator" not in step["resources"] and step["resources"]["resourceMemoryLimit"] == "16Gi"
    waiting = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train-two-tower"]
    assert waiting["nodeSelector"]["labels"] == {"pool": "batch"}
    (told,) = [v["value"] for v in step["env"] if v["name"] == "LONGTAIL_TRAIN_JOB"]
    wanted = json.loads(told)
    (container,) = wanted["spec"]["containers"]
    assert (wanted["nodes"], wanted["processes"], wanted["folder"], wanted["restarts"]) == (4, 8, "/mnt/training", 2)
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": 1}
    assert container["image"].endswith("longtail-pipelines:0.1.0") and wanted["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert {m["mountPath"] for m in container["volumeMounts"]} == {"/mnt/training", "/dev/shm"}


def test_compiling_for_a_platform_leaves_the_committed_pipeline_as_it_is(compiled):
    assert compiling.difference("training") == ""
    assert "kubernetes" not in compiling.compiled("training")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: {}\n", "line 1: image: missing"),
        ("image: a\nsteps:\n  train: {shm: 1Gi}\n", "line 2: steps: no step is called train: choose from build_cand"),
        ("image: a\ndefaults:\n  memory: {limit: 4 GB}\n", "line 3: defaults.memory.limit: "),
        ("image: a\ndefaults:\n  gpu: 1\n", "line 3: defaults.gpu: unknown key"),
        ("image: a\ndefaults:\n  accelerator: {type: gpu}\n", "line 3: defaults.accelerator.type: "),
        ("image: a\ndefaults:\n  tolerations:\n    - {operator: Equal, value: x}\n", "tolerations[0]: without a key"),
        ("image: a\ndefaults:\n  secrets:\n    - {name: s}\n", "line 4: defaults.secrets[0]: say what becomes of it"),
        ("image: a\ndefaults:\n  retries: {count: 0}\n", "line 3: defaults.retries.count: "),
        ("image: a\ndefaults:\n  env: {A-B: x}\n", "line 3: defaults.env.A-B"),
        ("image: a\ndefaults:\n  volumes: [{claim: c, mount: data}]\n", "line 3: defaults.volumes[0].mount: "),
        ("image: a\nsteps:\n  ingest: {train_job: {nodes: 2, folder: /a}}\n", "only train_two_tower can"),
        ("image: a\nsteps:\n  train_two_tower: {train_job: {nodes: 2, folder: /a}}\n", "folder: name a folder on"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_line_and_key(tmp_path, text, said):
    (tmp_path / "platform.yaml").write_text(text)
    with pytest.raises(InvalidInput) as error:
        Platform.load(tmp_path / "platform.yaml")
    assert said in str(error.value)
