"""Pages, forms and the API as a browser or script meets them; who sees what."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from accounts.models import AuditEntry
from deployments.models import (
    Cluster,
    Deployment,
    DirectoryVersion,
    GatewayProcess,
    Instance,
    Model,
    Version,
)
from monitoring import books
from monitoring.models import Books

FORM = {
    "name": "web-made", "environment": "staging", "access": "public", "engine": "simulator", "context_length": "2048", "replicas": "1", "cpu": "0.5",
    "memory": "256 MiB", "gpu": "0", "engine_time_to_first_token_ms": "5", "engine_inter_token_ms": "1", "engine_concurrency": "4",
    "engine_load_time_s": "0", "engine_failure_rate": "0", "engine_crash_after_s": "0", "engine_memory_growth_mb_per_minute": "0",
    "engine_cpu_burn_cores": "0",
}  # fmt: skip


@pytest.fixture
def operator(client, people):
    client.force_login(people.operator)
    return client


@pytest.fixture
def deployment(deploy, day_partitions) -> Deployment:
    made = deploy()
    Instance.objects.create(
        version=made.versions.get(),
        uid="ab12",
        name="chat-v1-x",
        generation=1,
        phase="ready",
        started_at="2026-01-01T00:00:00Z",
    )
    return made


def pages(deployment: Deployment) -> dict[str, str]:
    """Every GET page of the console by name."""
    path = ["acme", "chat"]
    return {
        "list": reverse("deployments:list"),
        "rows": reverse("deployments:rows"),
        "new": reverse("deployments:new"),
        "fields": reverse("deployments:specification-fields"),
        **{
            name: reverse(f"deployments:{name}", args=path)
            for name in (
                "detail",
                "overview-body",
                "header",
                "versions",
                "versions-body",
                "new-version",
                "version-fields",
                "logs",
                "testing",
                "settings",
            )
        },
        "async-queue": reverse("async:queue", args=path),
        "async-rows": reverse("async:rows", args=path),
        "own-async": reverse("async:own"),
        "monitoring": reverse("monitoring:monitoring", args=path),
        "charts": reverse("monitoring:charts", args=path),
        "panel": reverse("monitoring:data", args=path),
        "csv": reverse("monitoring:csv", args=path),
        "moment": reverse("monitoring:moment", args=path) + "?at=1763640000&width=60",
        "rates": reverse("monitoring:rates"),
        "fleet": reverse("monitoring:fleet"),
        "fleet-rows": reverse("monitoring:fleet-rows"),
        "gateways": reverse("monitoring:gateways"),
        "gateways-body": reverse("monitoring:gateways-body"),
        "log-lines": reverse("deployments:log-lines", args=["ab12"]),
        "log-download": reverse("deployments:log-download", args=["ab12"]),
        "models": reverse("deployments:catalog", args=["models"]),
        "model": reverse("deployments:catalog-detail", args=["models", deployment.model_id]),
        "model-edit": reverse("deployments:catalog-edit", args=["models", deployment.model_id]),
        "model-new": reverse("deployments:catalog-new", args=["models"]),
        "endpoints": reverse("deployments:catalog", args=["endpoints"]),
        "endpoint": reverse("deployments:catalog-detail", args=["endpoints", deployment.endpoint_id]),
        "clusters": reverse("deployments:catalog", args=["clusters"]),
        "cluster": reverse("deployments:catalog-detail", args=["clusters", deployment.endpoint.cluster_id]),
        "tokens": reverse("accounts:tokens"),
        "keys": reverse("apikeys:own"),
        "key-new": reverse("apikeys:new"),
        "keys-applied": reverse("apikeys:applied"),
        "keys-all": reverse("apikeys:all"),
        "audit-log": reverse("audit-log"),
        "administration": reverse("administration"),
        "organizations": reverse("organizations"),
        "organization": reverse("organization", args=["acme"]),
        "keys-of-deployment": reverse("apikeys:of-deployment", args=path),
        **{f"hub-{name}": reverse(f"hub:{name}", args=path) for name in ("deployment", "header", "testing")},
        "hub-models": reverse("hub:models"),
        "hub-model": reverse("hub:model", args=[deployment.model_id]),
        "users": reverse("users"),
        "limit-use": reverse("apikeys:limit-use", args=path),
        "own-limit-use": reverse("apikeys:own-limit-use", args=path),
        **{
            name: reverse(f"monitoring:{name}")
            for name in ("usage", "usage-chart", "usage-csv", "own-usage", "own-usage-chart", "own-usage-csv")
        },
        "docs": reverse("api-docs"),
    }


OPEN_TO_ALL_SIGNED_IN = {
    "own-async",
    "fleet",
    "fleet-rows",
    "list",
    "rows",
    "models",
    "endpoints",
    "rates",
    "tokens",
    "docs",
    "keys",
    "key-new",
    "keys-applied",
    "hub-models",
    "own-usage",
    "own-usage-chart",
    "own-usage-csv",
}
# A stranger is an admin of another organization: these exist for that admin, with their own things only.
OWN_FOR_ADMINS = {
    "new",
    "model-new",
    "keys-all",
    "audit-log",
    "organizations",
    "administration",
    "usage",
    "usage-chart",
    "usage-csv",
}


def test_operators_see_every_page(operator, deployment):
    for name, url in pages(deployment).items():
        assert operator.get(url).status_code == 200, name


def test_strangers_get_404_where_there_is_something_to_see(client, people, deployment):
    client.force_login(people.stranger)
    for name, url in pages(deployment).items():
        response = client.get(url)
        if name in OPEN_TO_ALL_SIGNED_IN | OWN_FOR_ADMINS:
            assert response.status_code == 200, name
            assert b"chat" not in response.content.replace(b"Simulated chat", b""), name
        else:
            assert response.status_code == 404, name


def test_anonymous_visitors_are_sent_to_sign_in_and_back(client, deployment):
    for name, url in pages(deployment).items():
        response = client.get(url)
        assert response.status_code == 302 and "/accounts/login/?next=" in response["Location"], name


def test_members_see_but_do_not_manage(client, people, deployment):
    client.force_login(people.member)
    assert client.get(reverse("deployments:detail", args=["acme", "chat"])).status_code == 200
    for name in ("settings", "new-version"):
        assert client.get(reverse(f"deployments:{name}", args=["acme", "chat"])).status_code == 404
    for action in ("start", "stop", "delete"):
        assert client.post(reverse("deployments:version-action", args=["acme", "chat", 1, action])).status_code == 404
    assert client.get(reverse("deployments:catalog", args=["clusters"])).status_code == 404
    assert client.get(reverse("monitoring:gateways")).status_code == 404


def test_pages_carry_a_policy_without_inline_code(operator, deployment):
    response = operator.get(reverse("monitoring:monitoring", args=["acme", "chat"]))
    policy = response["Content-Security-Policy"]
    assert "unsafe-inline" not in policy and "script-src 'self'" in policy
    body = response.content.decode()
    assert " style=" not in body and "<style" not in body and " onclick=" not in body


def test_deploying_by_the_form(operator, place):
    data = FORM | {
        "model": place.model.pk,
        "endpoint": place.endpoint.pk,
        "secret_variables": "TOKEN=hidden-1",
        "labels": "team=search",
        "extra_arguments": "--log 'a b'",
    }
    response = operator.post(reverse("deployments:new"), data)
    assert response.status_code == 302, response.content.decode()[:3000]
    version = Version.objects.get()
    specification = version.specification_with_secrets()
    assert specification.secret_environment == {"TOKEN": "hidden-1"}
    assert (specification.labels, specification.extra_arguments, specification.memory) == (
        {"team": "search"},
        ("--log", "a b"),
        256 << 20,
    )
    assert b"hidden-1" not in operator.get(reverse("deployments:new-version", args=["acme", "web-made"])).content


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Größe 1"}, "name"),
        ({"name": "x" * 300}, "name"),
        ({"name": ""}, "name"),
        ({"memory": "much"}, "memory"),
        ({"cpu": "-1"}, "cpu"),
        ({"replicas": "0"}, "replicas"),
        ({"replicas": "9" * 40}, "replicas"),
        ({"environment_variables": "no equals sign"}, "environment_variables"),
        ({"tolerations": "x=y:Sometimes"}, "tolerations"),
        ({"extra_arguments": "'open"}, "extra_arguments"),
        ({"engine": "nope"}, "engine"),
        ({"engine_failure_rate": "2"}, "engine_failure_rate"),
        ({"engine": "custom_command", "engine_command": "no-such-thing", "engine_health_path": "/"}, "engine_command"),
        ({"model": "999999"}, "model"),
    ],
)
def test_errors_stand_at_their_field_and_nothing_typed_is_lost(operator, place, changes, field):
    data = (
        FORM | {"model": place.model.pk, "endpoint": place.endpoint.pk, "description": "kept <b>as</b> typed"} | changes
    )
    response = operator.post(reverse("deployments:new"), data)
    body = response.content.decode()
    assert response.status_code == 422
    assert f'id="id_{field}_error"' in body or (field == "engine" and "invalid-feedback" in body)
    assert "kept &lt;b&gt;as&lt;/b&gt; typed" in body
    assert not Version.objects.exists()


def test_a_duplicate_name_is_told_at_the_name(operator, place, deploy):
    deploy("web-made")
    response = operator.post(
        reverse("deployments:new"), FORM | {"model": place.model.pk, "endpoint": place.endpoint.pk}
    )
    assert response.status_code == 422 and "already has a deployment of this name" in response.content.decode()


def test_changing_the_engine_keeps_what_was_typed_and_resets_the_rest(operator, place):
    url = reverse("deployments:specification-fields")
    query = {
        "engine": "custom_command",
        "model": place.model.pk,
        "endpoint": place.endpoint.pk,
        "cpu": "7",
        "memory": "256 MiB",
        "touched": "cpu,engine",
    }
    body = operator.get(url, query).content.decode()
    assert 'name="engine_command"' in body and 'name="engine_concurrency"' not in body
    assert 'name="cpu" value="7"' in body
    assert 'value="1 GiB"' in body, "memory was not touched, so it follows the engine"


def test_a_models_page_fixes_the_model(operator, place, people):
    other = Model.objects.create(organization=people.ours, name="Other")
    body = operator.get(reverse("deployments:new"), {"model": place.model.pk}).content.decode()
    assert 'data-testid="fixed-model">A model<' in body and "Other" not in body
    assert (
        "No deployments yet"
        in operator.get(reverse("deployments:catalog-detail", args=["models", other.pk])).content.decode()
    )


def test_empty_is_not_filtered(operator, people, place, deploy):
    assert "No deployments yet" in operator.get(reverse("deployments:list")).content.decode()
    deploy()
    filtered = operator.get(reverse("deployments:list"), {"search": "zzz"}).content.decode()
    assert "Nothing matches the filter" in filtered and "No deployments yet" not in filtered
    assert (
        "chat"
        in operator.get(
            reverse("deployments:list"), {"status": "preparing", "environment": "development", "organization": "acme"}
        ).content.decode()
    )
    assert "Nothing matches" in operator.get(reverse("deployments:list"), {"status": "stopped"}).content.decode()


def test_the_list_needs_a_fixed_number_of_queries(operator, deploy, django_assert_max_num_queries):
    for number in range(12):
        deploy(f"d{number}")
    with django_assert_max_num_queries(12):
        operator.get(reverse("deployments:list"))


def test_keyset_pages_show_each_deployment_once(operator, deploy, monkeypatch):
    monkeypatch.setattr("deployments.views.lists.PAGE_SIZE", 3)
    names = [f"d{number}" for number in range(8)]
    for name in names:
        deploy(name)
    seen, after = [], ""
    for _ in range(3):
        context = operator.get(reverse("deployments:rows"), {"after": after}).context
        seen += [row.name for row in context["rows"]]
        after = context["next_after"]
    assert seen == names and not after


@pytest.mark.parametrize(
    "query",
    [
        {"after": "~"},
        {"after": "x~y"},
        {"status": "nope"},
        {"model": "x"},
        {"search": "\x00'\"<"},
        {"organization": "%"},
    ],
)
def test_odd_addresses_do_no_harm(operator, deployment, query):
    assert operator.get(reverse("deployments:list"), query).status_code in (200, 400)


def test_scaling_by_the_form_refuses_rubbish_in_words(operator, deployment):
    for text in ("", "abc", "1e3", "-1", "٣", "9" * 30):
        answer = operator.post(reverse("deployments:scale", args=["acme", "chat"]), {"replicas": text}, follow=True)
        body = answer.content.decode()
        assert answer.status_code == 422 and "Replicas are" in body and f'value="{text}"' in body, text


def test_the_gateways_page_tells_who_serves_and_who_is_gone(operator, deployment):
    GatewayProcess.beat("gw-1", 1, address="10.0.0.1:8080", version=DirectoryVersion.bump(), in_flight=7)
    GatewayProcess.beat("gw-2", 1, address="10.0.0.2:8080", version=0, in_flight=0)
    GatewayProcess.objects.filter(name="gw-2").update(seen_at=timezone.now() - timedelta(minutes=3))
    text = operator.get(reverse("monitoring:gateways")).content.decode()
    assert "gw-1" in text and "Serving" in text and "Unreachable since" in text and "3 min" in text
    assert "version 0, behind" in text
    GatewayProcess.farewell("gw-2", 1)
    assert "gw-2" not in operator.get(reverse("monitoring:gateways-body")).content.decode()


def test_the_books_page_alarms_when_a_request_has_no_end(operator, deployment):
    counts = dict.fromkeys(("completed", "failed", "cancelled", "rejected", "expired"), 1)
    for gateway, admitted in (("gw-1", 7), ("gw-2", 8)):
        Books.objects.create(gateway=gateway, deployment_id=deployment.pk, admitted=admitted, in_flight=2, updated_at=timezone.now(), **counts)  # fmt: skip
    text = operator.get(reverse("monitoring:gateways")).content.decode()
    assert "The books don&#x27;t balance" in text or "The books don't balance" in text
    assert "1 unaccounted for" in text and "acme/chat" in text
    assert books.alarm_if_unbalanced() == 1
    Books.objects.filter(gateway="gw-2").update(admitted=7)
    text = operator.get(reverse("monitoring:gateways")).content.decode()
    assert "unaccounted" not in text and "balances" in text
    assert books.alarm_if_unbalanced() == 0


KUBECONFIG = """kind: Config
current-context: a
contexts: [{name: a, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: planted-kubeconfig-token}}]
"""


def test_a_kubeconfig_is_refused_at_its_field_or_stored_and_never_shown(operator, people):
    address = reverse("deployments:catalog-new", args=["clusters"])
    data = {"name": "lab", "driver": "kubernetes", "namespace": "models", "description": ""}
    refused = operator.post(address, data | {"kubeconfig": KUBECONFIG.replace("token:", "exec:")})
    assert refused.status_code == 422 and "would run a program" in refused.content.decode()
    made = operator.post(address, data | {"kubeconfig": KUBECONFIG}, follow=True)
    page = made.content.decode()
    assert "stored, encrypted" in page and "can&#x27;t be reached" in page and "planted-kubeconfig-token" not in page
    cluster = Cluster.objects.get(name="lab")
    assert "planted" not in cluster.encrypted_kubeconfig
    edit = operator.get(reverse("deployments:catalog-edit", args=["clusters", cluster.pk])).content.decode()
    assert "One is stored" in edit and "planted" not in edit
    kept = operator.post(
        reverse("deployments:catalog-edit", args=["clusters", cluster.pk]),
        data | {"kubeconfig": "", "description": "x"},
    )
    assert (
        kept.status_code == 302
        and Cluster.objects.get(pk=cluster.pk).encrypted_kubeconfig == cluster.encrypted_kubeconfig
    )
    api = operator.get("/api/v1/clusters/").content.decode()
    assert "planted" not in api and "kubeconfig" not in api
    assert not any("planted" in str(entry.changes) for entry in AuditEntry.objects.all())


def test_a_cluster_is_made_by_the_api_too(operator):
    data = {
        "name": "lab",
        "driver": "kubernetes",
        "namespace": "models",
        "kubeconfig": KUBECONFIG,
        "callers": ["10.0.0.0/8"],
    }
    assert operator.post("/api/v1/clusters/", data, content_type="application/json").status_code == 201
    bad = operator.post("/api/v1/clusters/", data | {"name": "b", "kubeconfig": "x"}, content_type="application/json")
    assert bad.status_code == 400 and "no kubeconfig" in bad.content.decode()


@pytest.mark.parametrize(
    ("default", "given", "access"),
    [("key_only", None, "key_only"), ("public", None, "public"), ("key_only", "public", "public")],
)
def test_the_form_asks_who_may_call_with_the_operators_default(client, people, place, settings, default, given, access):
    settings.DEFAULT_ACCESS = default
    client.force_login(people.operator)
    page = client.get(reverse("deployments:new")).content.decode()
    assert f'<option value="{default}" selected>' in page and "Public needs no key" in page
    values = FORM | {"model": place.model.pk, "endpoint": place.endpoint.pk, "access": given or default}
    answer = client.post(reverse("deployments:new"), values)
    assert answer.status_code == 302, answer.content.decode()
    assert Deployment.objects.get().access == access
