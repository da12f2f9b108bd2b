"""Every engine's manifest is taken by a real API server, which checks it and keeps nothing of it."""

import pytest

from runtimes.kubernetes.client import KubernetesClient
from tests.unit.test_golden_manifests import CASES, objects

PATHS = {"Deployment": "/apis/apps/v1/namespaces/{}/deployments", "Secret": "/api/v1/namespaces/{}/secrets"}


@pytest.mark.parametrize("name", CASES)
def test_the_api_server_takes_every_manifest(name: str, api: KubernetesClient, namespace: str) -> None:
    for item in objects(name):
        path = PATHS[item["kind"]].format(namespace)
        # Strict where the cluster can be (1.25 on): a misspelt field would else be dropped without a word.
        taken = api.create(f"{path}?dryRun=All&fieldValidation=Strict", item)
        spec = taken.get("spec", {}).get("template", {}).get("spec", {})
        assert taken["metadata"]["name"] == item["metadata"]["name"]
        if spec:
            assert spec["containers"][0]["image"] == item["spec"]["template"]["spec"]["containers"][0]["image"]
            wanted = {volume["name"] for volume in item["spec"]["template"]["spec"].get("volumes", ())}
            assert {volume["name"] for volume in spec.get("volumes", ())} == wanted
    names = [item["metadata"]["name"] for item in api.list(PATHS["Deployment"].format(namespace))]
    assert "chat-v1-v1-g1" not in names
