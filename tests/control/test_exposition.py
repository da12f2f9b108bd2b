"""`/metrics`: counters that only grow, histograms that add up, and nothing of what the reader may not see."""

from datetime import UTC, datetime

import pytest
from django.db import connection
from prometheus_client.parser import text_string_to_metric_families

from accounts.models import User
from accounts.services import create_api_token
from common.request_outcomes import COMPLETED, FAILED
from monitoring import collect, ingest, totals
from monitoring.models import RequestTotals
from tests.control.test_metrics import entry, folded
from tests.control.test_reconcile import becomes

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _empty_tables(db):
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE monitoring_fresh, monitoring_usage_minute, monitoring_block_10")


def key(name: str, *labels: str) -> tuple[str, ...]:
    return (name, *sorted(str(label) for label in labels))


def read(client, user: User) -> dict[tuple[str, ...], float]:
    """All samples by name and the values of their labels, sorted."""
    secret = create_api_token(user, "prometheus")[1]
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 200 and answer["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.content.decode())
    return {key(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def store(batch: str, entries) -> None:
    meter = folded(entries)
    ingest.store("gw", batch, meter.series(batch), meter.usage(), meter.books({}))


def test_counters_grow_with_each_batch_once_and_histograms_add_up(client, people, deploy):
    deployment = deploy()
    place = ("acme/chat", deployment.environment)
    now = datetime.now(UTC)
    first = [entry(deployment, at=now, seconds=seconds) for seconds in (0.02, 0.3, 0.3, 700.0)]
    store("b1", [*first, entry(deployment, at=now, outcome=FAILED, status=502, seconds=0.02)])
    store("b1", first)
    store("b2", [entry(deployment, at=now, seconds=3.0, outcome=COMPLETED)])
    found = read(client, people.admin)
    assert (
        found[key("slipway_requests_total", *place, "2xx")] == 5
        and found[key("slipway_requests_total", *place, "5xx")] == 1
    )
    assert found[key("slipway_request_outcomes_total", *place, "failed")] == 1
    assert found[key("slipway_tokens_total", *place, "output")] == 6 * 4
    duration = "slipway_request_duration_seconds"
    counts = [found[key(f"{duration}_bucket", *place, f"{bound}")] for bound in ("0.025", "0.5", "5", "480", "+Inf")]
    assert counts == [2, 4, 5, 5, 6] and found[key(f"{duration}_count", *place)] == 6
    assert found[key(f"{duration}_sum", *place)] == pytest.approx(703.64)
    assert found[key("slipway_deployment_status", *place, "1", "preparing")] == 1
    assert found[key("slipway_replicas", *place, "wanted")] == 1


def test_instances_tell_what_they_use_now(client, people, deploy):
    deployment = deploy()
    becomes(deployment.versions.get(), "running")
    collect.collect_local()
    found = read(client, people.member)
    memory = [value for name, value in found.items() if name[0] == "slipway_instance_memory_bytes"]
    assert len(memory) == 1 and memory[0] > 5 << 20
    assert [value for name, value in found.items() if name[0] == "slipway_engine_requests"] == [0, 0]


def test_nobody_reads_of_what_he_may_not_see(client, people, deploy):
    store("b1", [entry(deploy(), at=datetime.now(UTC))])
    assert not any("acme/chat" in name for name in read(client, people.stranger))
    assert not any(name[0].startswith("slipway_gateway") for name in read(client, people.admin))
    assert ("slipway_books_missing",) in read(client, people.operator)
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer slt_nonsense"}).status_code == 401


def test_two_gateways_add_to_one_deployment_at_once(deploy):
    """Both batches lock the same rows: one waits for the other, none is lost."""
    from concurrent.futures import ThreadPoolExecutor

    from django.db import connections

    deployments = [deploy(name) for name in ("one", "two", "three")]
    now = datetime.now(UTC)

    def send(number: int) -> None:
        try:
            order = deployments if number % 2 else deployments[::-1]
            store(f"b{number}", [entry(deployment, at=now) for deployment in order])
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(send, range(24)))
    assert [totals.read(row).counts[0] for row in RequestTotals.objects.all()] == [24, 24, 24]


@pytest.mark.parametrize(
    "accepted", ["text/plain", "text/plain;version=0.0.4", "application/openmetrics-text; version=1.0.0", "*/*"]
)
def test_every_type_that_prometheus_asks_for_is_answered(client, people, deploy, accepted):
    deploy()
    _, secret = create_api_token(people.admin, "prometheus")
    headers = {"Authorization": f"Bearer {secret}", "Accept": accepted}
    for ask in (client.get, client.head):
        answer = ask("/metrics", headers=headers)
        assert answer.status_code == 200 and answer["Content-Type"].startswith(
            accepted.split(";")[0].replace("*/*", "text/plain")
        )
    assert client.get("/metrics", headers={"Accept": accepted}).status_code == 401
