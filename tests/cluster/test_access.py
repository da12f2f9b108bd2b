"""Ways into a cluster: kubeconfigs, the service account of Slipway's own pod, and the rights that the recipe grants."""

import base64
import os
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes.config import incluster_config

from common.service_error import ServiceError
from deployments.models import Cluster
from deployments.services import catalog
from runtimes.kubernetes import access, kubeconfig
from runtimes.kubernetes.client import KubernetesClient
from runtimes.kubernetes.driver import KubernetesDriver
from runtimes.kubernetes.places import TEMPLATE, Places
from tests.cluster.conftest import admin_kubeconfig, apply_recipe
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def token(api: KubernetesClient, namespace: str) -> str:
    return apply_recipe(api, namespace, "by-recipe", proxied=True)


def test_rights_are_asked_for_one_by_one_and_the_recipe_grants_them(token, namespace):
    config = kubeconfig.read(admin_kubeconfig())
    config["users"][0]["user"] = {"token": token}
    granted = access.check(KubernetesClient(config), Places(namespace), proxied=True)
    assert all(check.is_granted for check in granted), [check.what for check in granted if not check.is_granted]
    assert any("pods/proxy" in check.what for check in granted)
    # The recipe alone reaches no other namespace's pods, and no node.
    broad = {"pods", "nodes/proxy", "pods/proxy"}
    base = yaml.safe_load_all(access.recipe(Places(namespace)))
    (everywhere,) = [document for document in base if document["kind"] == "ClusterRole"]
    assert not broad & {resource for rule in everywhere["rules"] for resource in rule["resources"]}
    elsewhere = access.check(KubernetesClient(config), Places("default"))
    assert any(not check.is_granted for check in elsewhere)


def test_inside_the_cluster_the_pods_own_service_account_is_used(token, api, namespace, tmp_path, monkeypatch):
    """What every pod finds: two variables, and its account's token and authority in files."""
    server = urlsplit(api.host)
    authority = kubeconfig.read(admin_kubeconfig())["clusters"][0]["cluster"]["certificate-authority-data"]
    (tmp_path / "token").write_text(token)
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    driver = KubernetesDriver(KubernetesClient(None), namespace=namespace, installation="inside", cluster="a")
    assert all(check.is_granted for check in driver.check())
    assert driver.observe().instances == {} and driver.capacity()


def test_without_the_broad_rights_nodes_are_shown_without_what_is_free(token, api, namespace):
    """With those of the recipe alone."""
    config = kubeconfig.read(admin_kubeconfig())
    config["users"][0]["user"] = {"token": token}
    driver = KubernetesDriver(KubernetesClient(config), namespace=namespace, installation="x", cluster="a")
    (node, *_) = driver.capacity()
    assert node.cpu_available is not None
    role = f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/by-recipe-{namespace}-core-pods"
    binding = api.get(role)
    api.delete(role)
    try:
        # The API server hears of a binding's end a moment later.
        wait_for(lambda: driver.capacity()[0].memory_available is None, within_s=20)
        (node, *_) = driver.capacity()
        assert node.cpu and node.cpu_available is node.memory_available is node.gpus_available is None
    finally:
        binding["metadata"] = {"name": binding["metadata"]["name"]}
        api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)


def test_a_namespace_that_is_not_there_is_refused(people, api):
    missing = Cluster(name="missing", driver=Cluster.Driver.KUBERNETES, namespace="is-not-there")
    with pytest.raises(ServiceError, match="The cluster has no namespace “is-not-there”") as refused:
        catalog.save_cluster(missing, actor=people.operator, kubeconfig=admin_kubeconfig())
    assert refused.value.field == "namespace"


def test_names_of_namespaces_and_kubeconfigs_are_checked_before_they_are_stored(people):
    bad = Cluster(name="bad", driver=Cluster.Driver.KUBERNETES, namespace="Not a name")
    with pytest.raises(ServiceError) as refused:
        catalog.save_cluster(bad, actor=people.operator, kubeconfig="")
    assert refused.value.field == "namespace"
    outside = Cluster(name="far", driver=Cluster.Driver.KUBERNETES, namespace="models", reach=Cluster.Reach.API_SERVER)
    with pytest.raises(ServiceError, match="need a kubeconfig") as refused:
        catalog.save_cluster(outside, actor=people.operator, kubeconfig="")
    assert refused.value.field == "reach"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
@pytest.mark.parametrize("template", ["", TEMPLATE])
def test_the_commands_of_the_page_make_a_kubeconfig_that_is_enough(namespace, tmp_path, template):
    """As an operator does it, with kubectl."""
    (tmp_path / "admin").write_text(admin_kubeconfig())
    environment = os.environ | {"KUBECONFIG": str(tmp_path / "admin")}

    def shell(command: list[str], text: str) -> str:
        done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, timeout=60)
        assert not done.returncode, done.stderr
        return done.stdout

    recipe = access.recipe(Places(namespace, template))
    shell(["kubectl", "apply", "-f", "-"], recipe)
    made: list[str] = []
    wait_for(lambda: made.append(shell(["bash"], access.kubeconfig_script(namespace))) or 'token: "ey' in made[-1])
    checks = access.check(KubernetesClient(kubeconfig.read(made[-1])), Places(namespace, template))
    assert not [check.what for check in checks if not (check.is_granted or check.is_optional)]
    shell(["kubectl", "delete", "clusterrole,clusterrolebinding", f"slipway-{namespace}"], "")
