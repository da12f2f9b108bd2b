"""The pure parts of the Kubernetes driver."""

from decimal import Decimal

import pytest

from runtimes.kubernetes import kubeconfig, logs, manifest, nodes
from runtimes.kubernetes.manifest import Workload
from runtimes.launch_plan import LaunchPlan

GOOD = """
apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: c, user: u, namespace: n}}, {name: b, context: {cluster: d, user: v}}]
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: eA==}}]
users: [{name: u, user: {token: secret-token}}]
"""


def test_only_what_reaches_the_cluster_is_kept():
    config = kubeconfig.read(GOOD)
    assert config["users"] == [{"name": "slipway", "user": {"token": "secret-token"}}]
    assert config["clusters"][0]["cluster"] == {"server": "https://10.0.0.1:6443", "certificate-authority-data": "eA=="}
    assert len(config["contexts"]) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("{token: secret-token}", "{exec: {command: sh, args: [-c, id]}}"), "would run a program"),
        (("{token: secret-token}", "{auth-provider: {name: gcp}}"), "would run a program"),
        (("{token: secret-token}", "{tokenFile: /etc/passwd}"), "names a file"),
        (("{token: secret-token}", "{client-certificate: a.crt, client-key: a.key}"), "names a file"),
        (("certificate-authority-data: eA==", "certificate-authority: /etc/passwd"), "names a file"),
        (("certificate-authority-data: eA==", "proxy-url: http://10.0.0.9"), "proxy-url"),
        (("https://10.0.0.1:6443", "http://10.0.0.1"), "https://"),
        (("{token: secret-token}", "{}"), "no credentials"),
        (("current-context: a", "current-context: none"), "none"),
        (("current-context: a", "other: a"), "current-context"),
        (("cluster: c,", "cluster: nowhere,"), "nowhere"),
        (("kind: Config", "kind: Pod"), "no kubeconfig"),
        (("users: [", "users: &x [*x, "), "aliases"),
        (("users: [", "users: [["), "not YAML"),
    ],
)
def test_what_would_run_code_or_read_files_is_refused_with_the_reason(change, said):
    with pytest.raises(kubeconfig.KubeconfigError, match=said):
        kubeconfig.read(GOOD.replace(*change))


@pytest.mark.parametrize("text", ["", "[]", "null", "a: b", "\x00", "{{{", "- 1"])
def test_rubbish_is_refused_in_words(text):
    with pytest.raises(kubeconfig.KubeconfigError):
        kubeconfig.read(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("100m", "0.1"), ("2", "2"), ("1.5", "1.5"), ("2Gi", 2 << 30), ("128974848", 128974848), ("1e3", 1000), ("500k", 500_000), (None, 0), ("x", 0)],
)  # fmt: skip
def test_amounts(text, value):
    assert nodes.quantity(text) == Decimal(value)


def test_positions_of_lines_are_their_times_and_the_same_when_read_again():
    text = [
        b"2026-11-20T12:00:00.000000001Z a",
        b"2026-11-20T12:00:00.000000001Z b",
        b"2026-11-20T12:00:00.5Z c d",
        b"failed to watch file",
        b"2026-11-20T12:00:01Z ",
    ]
    lines = list(logs.positioned(text, after=0))
    assert [line.text.partition(" ")[2] for line in lines] == ["a", "b", "c d", "failed to watch file", ""]
    assert len({line.position for line in lines}) == 5 and sorted(lines, key=lambda line: line.position) == lines
    for index, line in enumerate(lines):
        assert list(logs.positioned(text, after=line.position)) == lines[index + 1 :]
    assert logs.since(lines[2].position) == "2026-11-20T12:00:00Z"


def test_names_stay_short_enough_for_pods_and_differ_by_start():
    long = Workload("i", "c", "v123456", 12, "a" * 80 + "-v3")
    assert len(long.object_name) <= 57 and long.object_name.endswith("-v123456-g12")
    assert Workload("i", "c", "v1", 1, "chat-v1").object_name != Workload("i", "c", "v1", 2, "chat-v1").object_name


def test_gpus_are_replaced_without_a_surge_and_a_command_may_be_the_images_own():
    workload = Workload("i", "c", "v1", 1, "chat")
    deployment = manifest.deployment(workload, LaunchPlan("vllm", (), image="x", gpu=2, shared_memory=2 << 30), 3)
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "command" not in pod["containers"][0] and pod["volumes"][0]["emptyDir"]["medium"] == "Memory"
    assert deployment["spec"]["replicas"] == 3 and manifest.secrets(workload, LaunchPlan("x", ())) == []
