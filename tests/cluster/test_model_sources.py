"""Models that lie in a store or in a volume claim: a real engine reads them from there, and says why when it can't."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from deployments.drivers import kubernetes_driver
from deployments.models import Model, Status
from deployments.services import catalog
from runtimes.engines import base
from runtimes.specification import Specification
from tests.cluster.test_llama_cpp import IMAGE, _has_image
from tests.cluster.test_pods import cause_is, deploy, look, place
from tests.control.test_reconcile import becomes
from tests.tiny_model import write_tiny_model
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
assert deploy and place and _has_image
FETCH_IMAGE = "docker.io/slipway/rclone:test"
KEY, SECRET = "the-key", "planted-store-secret"


@pytest.fixture
def node(api) -> SimpleNamespace:
    (found,) = api.list("/api/v1/nodes")
    if not any(FETCH_IMAGE in item["names"] for item in found["status"].get("images", ())):
        pytest.skip("the cluster was started without rclone's image: start it again")
    address = next(item["address"] for item in found["status"]["addresses"] if item["type"] == "InternalIP")
    return SimpleNamespace(name=found["metadata"]["name"], address=address)


@pytest.fixture
def store(tmp_path: Path, node: SimpleNamespace, free_port: int, monkeypatch) -> Iterator[str]:
    """An S3 server with a bucket `weights`; what comes behind an address in it."""
    written(tmp_path / "weights" / "small")
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = [program, "serve", "s3", str(tmp_path), "--addr", f"0.0.0.0:{free_port}", "--auth-key", f"{KEY},{SECRET}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            return httpx.get(f"http://{node.address}:{free_port}/", trust_env=False).status_code > 0
        except httpx.TransportError:
            return False

    wait_for(answers, what="the store")
    monkeypatch.setattr(base, "FETCH_IMAGE", FETCH_IMAGE)
    yield f"?endpoint=http://{node.address}:{free_port}"
    server.kill()
    server.wait()


def written(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_tiny_model(folder / "tiny.gguf")


def stored(place, people, uri: str, credential: str) -> None:
    place.model.source, place.model.uri = Model.Source.STORAGE, uri
    catalog.save_model(place.model, actor=people.admin, credential=credential)


def llama(uri: str, **values: Any) -> Specification:
    given = {"cpu": 0.5, "memory": 512 << 20, "context_length": 256, "image": IMAGE} | values
    return Specification("llama_cpp", "acme/tiny", uri, engine_settings={"parallel": 1}, **given)


def answers_a_prompt(version) -> bool:
    asked = {"model": "acme/tiny", "prompt": "hello", "max_tokens": 4, "ignore_eos": True}
    address = f"http://{version.instances.get().address}/v1/completions"
    return httpx.post(address, json=asked, trust_env=False, timeout=30).json()["usage"]["completion_tokens"] == 4


def test_a_model_is_fetched_from_its_store(deploy, people, place, store, api, namespace):
    uri = f"s3://weights/small/tiny.gguf{store}"
    stored(place, people, uri, f"{KEY}:{SECRET}")
    version = deploy(llama(uri))
    becomes(version, Status.RUNNING, within_s=120)
    assert answers_a_prompt(version)
    reached = [step["name"] for step in version.instances.get().steps if step["at"]]
    assert reached == ["scheduled", "model_fetched", "image_pulled", "started", "ready"]
    pods = api.list(f"/api/v1/namespaces/{namespace}/pods")
    assert SECRET not in json.dumps(pods), "the store's key is in a Secret"
    engine = next(item for item in pods[0]["spec"]["containers"] if item["name"] == "engine")
    assert not [item for item in engine["env"] if "RCLONE" in item["name"]], "the engine has no business with it"


def test_a_store_that_refuses_is_told_with_its_words_and_mended_by_a_new_version(deploy, people, place, store):
    uri = f"s3://weights/small/tiny.gguf{store}"
    stored(place, people, uri, f"{KEY}:wrong")
    version = deploy(llama(uri))
    cause = cause_is(version, "model_unreachable")
    assert cause.field == "model" and cause.evidence and "wrong" not in " ".join(cause.evidence)
    assert "could not be fetched" in cause.message


def test_a_path_that_is_not_in_the_store_is_told(deploy, people, place, store):
    uri = f"s3://weights/smal/tiny.gguf{store}"
    stored(place, people, uri, f"{KEY}:{SECRET}")
    cause = cause_is(deploy(llama(uri)), "model_unreachable")
    assert any("nothing lies at model:weights/smal/tiny.gguf" in line for line in cause.evidence)


def test_two_instances_fetch_into_one_cache(deploy, people, place, store, claim, api, namespace):
    uri = f"s3://weights/small/tiny.gguf{store}"
    stored(place, people, uri, f"{KEY}:{SECRET}")
    version = deploy(llama(uri, cache_claim=claim), replicas=2)
    becomes(version, Status.RUNNING, within_s=120)
    wait_for(
        lambda: look(version) and version.instances.filter(phase="ready").count() == 2,
        what="two instances",
        within_s=60,
    )
    pods = api.list(f"/api/v1/namespaces/{namespace}/pods")
    assert all(sum("persistentVolumeClaim" in item for item in pod["spec"]["volumes"]) == 1 for pod in pods)
    lines = list(kubernetes_driver(place.cluster).pod_log(pods[0]["metadata"]["name"], after=0, restarted=False, fetching=True))  # fmt: skip
    assert any("tiny.gguf" in line.text for line in lines), "what was fetched is in the instance's log"


@pytest.fixture
def claim(tmp_path: Path, api, namespace: str) -> Iterator[str]:
    """A volume claim with weights, backed by a folder of the node, which is this machine."""
    folder = Path("/var/tmp") / f"slipway-weights-{uuid.uuid4().hex[:8]}"
    written(folder / "gguf")
    name = f"acme.weights-{uuid.uuid4().hex[:6]}"
    size = {"storage": "1Gi"}
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": size, "accessModes": ["ReadWriteMany"], "hostPath": {"path": str(folder)}, "storageClassName": "",
                 "claimRef": {"namespace": namespace, "name": name}},
    }  # fmt: skip
    wanted = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": size}, "storageClassName": "", "volumeName": name},
    }  # fmt: skip
    api.create("/api/v1/persistentvolumes", volume)
    api.create(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", wanted)
    yield name
    api.delete(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
    api.delete(f"/api/v1/persistentvolumes/{name}")
    shutil.rmtree(folder, ignore_errors=True)


def test_a_model_is_read_from_a_claim(deploy, place, claim):
    version = deploy(llama(f"pvc://{claim}/gguf/tiny.gguf"))
    becomes(version, Status.RUNNING, within_s=120)
    assert answers_a_prompt(version)


def test_a_claim_that_is_not_there_is_named(deploy, place):
    version = deploy(llama("pvc://acme.nowhere/tiny.gguf"))
    cause = cause_is(version, "claim_missing")
    assert "acme.nowhere" in cause.message and cause.field == "model"
    other = deploy(llama("/models/tiny.gguf", cache_claim="acme.nothing"), name="other")
    cause = cause_is(other, "claim_missing")
    assert "acme.nothing" in cause.message and cause.field == "cache_claim"
