"""What Slipway has to be allowed in a cluster, whether it is, and the RBAC that mends it."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import yaml

from runtimes.kubernetes.client import KubernetesClient
from runtimes.kubernetes.places import Places

_AT_ONCE = 12
_READ = ("get", "list", "watch")
# (API group, resource, verbs) within the namespace.
NEEDED = (
    ("apps", "deployments", ("create", "patch", "delete", *_READ)),
    ("", "pods", ("delete", *_READ)),
    ("", "pods/log", ("get",)),
    ("", "secrets", ("create", "delete", "list")),
    ("", "events", ("list",)),
)
# The same, for gateways that reach instances through the API server: HTTP's methods by the API's names.
PROXY = ("", "pods/proxy", ("get", "create", "update", "patch", "delete"))
# Over the whole cluster, where organizations have namespaces of their own; NEEDED and GUARDS then, too.
NAMESPACES = (
    ("", "namespaces", ("get", "list", "create")),
    ("", "resourcequotas", ("get", "create", "patch")),
    ("networking.k8s.io", "networkpolicies", ("get", "create", "patch")),
)
# (API group, resource, verbs, what is missing without it) within the first namespace, wherever instances run.
LEASES = (
    ("coordination.k8s.io", "leases", ("get", "create", "update"), "nobody notices another Slipway that acts in this namespace, as a restored copy of the database would"),
)  # fmt: skip
# (API group, resource, verbs, what is missing without it) within the namespace.
GUARDS = (
    ("apps", "replicasets", ("delete",), "pods whose Deployment was deleted by hand without them can't be ended"),
    ("policy", "poddisruptionbudgets", ("create", "delete"), "a drain of nodes may take all instances of a version at once"),
)  # fmt: skip
# The same, over the whole cluster. These tell little and belong to the recipe.
FACTS = (
    ("", "namespaces", ("get",), "nobody notices when the same cluster is entered twice"),
    ("", "nodes", ("list",), "the nodes' capacity is not shown"),
)
# These reach far beyond the namespace: each has a recipe of its own, to be granted or not.
BROAD = (
    ("", "pods", ("list",), "what is taken of the nodes is not shown"),
    ("", "nodes/proxy", ("get",), "CPU is charted without user and system apart, if the metrics API is there"),
    ("metrics.k8s.io", "pods", ("list",), "CPU and memory of instances are charted through nodes/proxy only"),
    ("", "pods/proxy", ("get",), "the GPUs of pods are not charted, which NVIDIA's exporters tell in a namespace of their own"),
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """The rights to one resource. `consequence` says what is lost without an optional one, `missing` names the verbs
    where some of them are granted."""

    what: str
    is_granted: bool
    is_optional: bool = False
    consequence: str = ""
    missing: tuple[str, ...] = ()


def needed(*, proxied: bool) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """`proxied`: gateways reach instances through the API server."""
    return (*NEEDED, PROXY) if proxied else NEEDED


def check(client: KubernetesClient, places: Places, *, proxied: bool = False) -> list[Check]:
    """Ask the cluster itself, all rights side by side: one by one they take as long as the cluster is slow, many times over.

    Raises ClusterUnreachableError.
    """
    began = time.monotonic()
    version = client.get("/version").get("gitVersion", "?")
    took_ms = (time.monotonic() - began) * 1000
    where = "" if places.template else places.home
    asked = [(group, resource, verbs, where, "") for group, resource, verbs in needed(proxied=proxied)]
    asked += [(*right, "", "") for right in NAMESPACES if places.template]
    asked += [(*lease[:3], places.home, lease[3]) for lease in LEASES]
    asked += [(*guard[:3], where, guard[3]) for guard in GUARDS]
    told = {(group, resource, verb, place) for group, resource, verbs, place, _ in asked for verb in verbs}
    asked += [
        (group, resource, verbs, "", lost)
        for group, resource, verbs, lost in (*FACTS, *BROAD)
        if not told.issuperset((group, resource, verb, "") for verb in verbs)
    ]
    questions = [(verb, group, resource, where) for group, resource, verbs, where, _ in asked for verb in verbs]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = dict(zip(questions, pool.map(lambda question: _may(client, *question), questions), strict=True))
    found = [Check(f"connects to {client.host}, Kubernetes {version}; it answered within {took_ms:,.0f} ms", True)]
    for group, resource, verbs, where, lost in asked:
        missing = tuple(verb for verb in verbs if not answers[verb, group, resource, where])
        name = f"{resource} of {group}" if lost and group else resource
        what = f"{name} in {where or 'the whole cluster'}: {', '.join(verbs)}"
        some = missing if len(missing) < len(verbs) else ()
        found.append(Check(what, not missing, is_optional=bool(lost), consequence=lost, missing=some))
    return found


def recipe(places: Places, *, proxied: bool = False) -> str:
    """A service account with just these rights, as YAML for kubectl apply."""
    namespace = places.home
    within = [_rule(*lease[:3]) for lease in LEASES]
    over_all = [_rule(*fact[:3]) for fact in FACTS]
    # Of what it is granted over the whole cluster it uses what it needs in namespaces that carry its label, and no others.
    rules = [_rule(*right) for right in (*needed(proxied=proxied), *(guard[:3] for guard in GUARDS))]
    if places.template:
        over_all += [*rules, *(_rule(*right) for right in NAMESPACES)]
    else:
        within = rules + within
    account = {"name": "slipway", "namespace": namespace}
    subjects = [{"kind": "ServiceAccount", **account}]
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": account,
            "rules": within,
        },
        _binding("RoleBinding", "Role", account, subjects),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": f"slipway-{namespace}"},
            "rules": over_all,
        },
        _binding("ClusterRoleBinding", "ClusterRole", {"name": f"slipway-{namespace}"}, subjects),
    ]
    return _text(documents)


def kubeconfig_script(namespace: str) -> str:
    """Shell that prints a kubeconfig of the recipe's service account, run by whoever has applied the recipe."""
    return f"""\
namespace={namespace}
ask() {{ kubectl config view --raw --minify --flatten -o jsonpath="{{.clusters[0].cluster.$1}}"; }}
# Clusters and kubectl before 1.24 keep a token in a Secret instead.
token=$(kubectl -n $namespace create token slipway --duration=8760h 2>/dev/null) ||
  token=$(kubectl -n $namespace get secret "$(kubectl -n $namespace get serviceaccount slipway -o jsonpath='{{.secrets[0].name}}')" -o jsonpath='{{.data.token}}' | base64 -d)
cat <<END
apiVersion: v1
kind: Config
current-context: slipway
contexts: [{{name: slipway, context: {{cluster: slipway, user: slipway}}}}]
clusters: [{{name: slipway, cluster: {{server: "$(ask server)", certificate-authority-data: "$(ask certificate-authority-data)"}}}}]
users: [{{name: slipway, user: {{token: "$token"}}}}]
END
"""


@dataclass(frozen=True)
class BroadRight:
    """One that may be granted beyond the recipe. `consequence` is what is missing without it."""

    what: str
    consequence: str
    recipe: str


def broad_rights(namespace: str) -> list[BroadRight]:
    """Each with YAML for the recipe's service account."""
    subjects = [{"kind": "ServiceAccount", "name": "slipway", "namespace": namespace}]
    found = []
    for group, resource, verbs, consequence in BROAD:
        name = {"name": f"slipway-{namespace}-{(group or 'core').partition('.')[0]}-{resource.replace('/', '-')}"}
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": name}
        documents = [
            role | {"rules": [_rule(group, resource, verbs)]},
            _binding("ClusterRoleBinding", "ClusterRole", name, subjects),
        ]
        what = f"{', '.join(verbs)} {resource}{f' of {group}' if group else ''} in the whole cluster"
        found.append(BroadRight(what, consequence, _text(documents)))
    return found


def _text(documents: list[dict[str, Any]]) -> str:
    return "---\n".join(yaml.safe_dump(document, sort_keys=False) for document in documents)


def _rule(group: str, resource: str, verbs: tuple[str, ...]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}


def _binding(kind: str, role: str, metadata: dict[str, str], subjects: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": metadata["name"]},
        "subjects": subjects,
    }


def _may(client: KubernetesClient, verb: str, group: str, resource: str, namespace: str) -> bool:
    name, _, subresource = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": name, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked | ({"subresource": subresource} if subresource else {})},
    }
    answer = client.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool((answer.get("status") or {}).get("allowed"))
