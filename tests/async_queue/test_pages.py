"""Pages of the queue: who sees what of it, and what the buttons do."""

import json
import uuid

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import AuditEntry
from async_inference import services
from async_inference.models import AsyncPayload, AsyncRequest, AsyncResult, AsyncSettings, WebhookDelivery
from async_inference.options import Options
from deployments.models import Status, Version
from tests.conftest import sign_in

pytestmark = pytest.mark.django_db
PLACE = ["acme", "chat"]


@pytest.fixture
def deployment(deploy):
    return deploy()


@pytest.fixture
def submit(deployment, people):
    def make(user=None, **chosen):
        return services.submit(
            deployment, user=user or people.member, organization_id=people.ours.pk, method="POST", path="/v1/x", headers=[],
            body=b'{"private": "question"}', chosen=Options(**chosen),
        )  # fmt: skip

    return make


def end(request: AsyncRequest, state: str = "completed", body: bytes = b'{"private": "answer"}') -> AsyncRequest:
    from django.utils import timezone

    AsyncRequest.objects.filter(pk=request.pk).update(state=state, finished_at=timezone.now(), status_code=200)
    AsyncResult.objects.create(request=request, content_type="application/json", body=body)
    request.refresh_from_db()
    return request


def test_the_queue_lists_counts_and_searches(client, people, submit):
    rows = [submit() for _ in range(3)]
    end(rows[0])
    AsyncRequest.objects.filter(pk=rows[1].pk).update(
        state="retrying", error_message="The instance answered 500.", attempts=1
    )
    client.force_login(people.member)
    page = client.get(reverse("async:queue", args=PLACE)).content.decode()
    assert page.count("<tr>") == 4 and "Tried 1 time so far. The instance answered 500." in page
    assert 'data-testid="count-queued">Queued <span class="badge bg-secondary-lt ms-1">2<' in page
    for query, count in (({"state": "completed"}, 1), ({"state": "queued"}, 2), ({"search": rows[2].uid.hex[:9]}, 1)):
        found = client.get(reverse("async:rows", args=PLACE), query).content.decode()
        assert found.count(">member<") == count, query
    for nonsense in ({"search": "zz"}, {"search": "0" * 40}, {"before": "1"}, {"state": "expired"}):
        assert "Nothing matches" in client.get(reverse("async:rows", args=PLACE), nonsense).content.decode()
    assert "Empty the queue" not in page, "a member only looks"


def test_a_long_queue_is_paged_with_a_fixed_number_of_queries(client, people, deployment, submit):
    submit()
    sign_in(client, people.admin)

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as found:
            client.get(reverse("async:queue", args=PLACE))
        return len(found)

    few = queries()
    one = AsyncRequest.objects.get()
    AsyncRequest.objects.bulk_create(
        AsyncRequest(
            uid=uuid.uuid4(), deployment=deployment, api_id="acme/chat", organization_id=1, user_id=people.member.pk, priority=1,
            retries=0, queue_s=600, payload_bytes=0, fingerprint=b"", expires_at=one.expires_at, state="queued",
        )
        for _ in range(120)
    )  # fmt: skip
    assert queries() == few
    first = client.get(reverse("async:queue", args=PLACE)).context
    older = client.get(reverse("async:queue", args=PLACE), {"before": first["next_before"]}).context
    assert len(first["rows"]) == len(older["rows"]) == 50
    assert first["rows"][-1].pk > older["rows"][0].pk


def test_others_are_not_charged_for_what_a_manager_sends_again(client, people, submit):
    request = end(submit(people.admin))
    AsyncRequest.objects.update(organization_id=people.theirs.pk, user_id=people.stranger.pk)
    client.force_login(people.admin)
    address = reverse("async:one", args=[*PLACE, request.uid.hex])
    assert "Send it again" not in client.get(address).content.decode()
    client.post(reverse("async:act", args=[*PLACE, request.uid.hex, "retry"]))
    assert AsyncRequest.objects.count() == 1


def test_what_was_sent_and_answered_is_for_its_sender_and_the_managers(client, people, submit):
    request = end(submit(people.admin))
    addresses = [
        reverse("async:one", args=[*PLACE, request.uid.hex]),
        reverse("async:result", args=[*PLACE, request.uid.hex]),
    ]
    client.force_login(people.member)
    assert "private" not in client.get(addresses[0]).content.decode()
    assert client.get(addresses[1]).status_code == 404
    act = reverse("async:act", args=[*PLACE, request.uid.hex, "retry"])
    assert client.post(act).status_code == 404
    client.force_login(people.operator)
    page = client.get(addresses[0]).content.decode()
    assert "question" in page and "answer" in page
    file = client.get(addresses[1])
    assert file.content == b'{"private": "answer"}' and "attachment" in file["Content-Disposition"]
    assert file["Content-Type"] == "application/octet-stream"
    client.force_login(people.stranger)
    assert {client.get(address).status_code for address in addresses} == {404}


def test_buttons_cancel_send_again_and_deliver_again(client, people, submit):
    client.force_login(people.member)
    request = submit(webhook="https://example.com/")

    def press(action):
        return client.post(reverse("async:own-act", args=[request.uid.hex, action]), follow=True)

    assert "has no webhook, or has not ended yet" in press("redeliver").content.decode()
    assert "it can be sent again when it has ended" in press("retry").content.decode()
    assert "is cancelled" in press("cancel").content.decode()
    assert "there is nothing to cancel" in press("cancel").content.decode()
    assert WebhookDelivery.objects.get().state == "pending"
    WebhookDelivery.objects.update(state="failed")
    assert "will be delivered" in press("redeliver").content.decode()
    assert WebhookDelivery.objects.get().state == "pending"
    again = press("retry")
    copy = AsyncRequest.objects.get(retry_of=request.uid)
    assert (
        copy.uid.hex in again.redirect_chain[0][0]
        and copy.state == "queued"
        and copy.webhook_url == request.webhook_url
    )
    assert bytes(AsyncPayload.objects.get(request=copy).body) == b'{"private": "question"}'
    assert press("explode").status_code == 404
    # One that nobody may touch looks like one that isn't there.
    client.force_login(people.stranger)
    assert press("cancel").status_code == 404


def test_emptying_the_queue_spares_what_runs(client, people, submit):
    running = submit()
    AsyncRequest.objects.update(state="running")
    for _ in range(3):
        submit()
    client.force_login(people.admin)
    page = client.get(reverse("async:queue", args=PLACE)).content.decode()
    assert "Cancel all that waits now? 3 requests waited" in page
    assert (
        "3 waiting requests cancelled" in client.post(reverse("async:empty", args=PLACE), follow=True).content.decode()
    )
    assert AsyncRequest.objects.filter(state="cancelled").count() == 3
    running.refresh_from_db()
    assert running.state == "running"
    assert AuditEntry.objects.filter(action="empty queue").get().changes == {"waiting": [3, 0]}


def test_settings_of_the_queue(client, people, deployment):
    client.force_login(people.admin)
    place = reverse("async:settings", args=PLACE)
    assert client.post(place, {"concurrency": "3", "result_days": "14"}).status_code == 302
    chosen = AsyncSettings.objects.get()
    assert (chosen.concurrency, chosen.result_days) == (3, 14)
    wrong = client.post(place, {"concurrency": "0", "result_days": "31"})
    assert wrong.status_code == 422 and wrong.content.decode().count("is-invalid") == 2
    assert client.post(place, {"concurrency": "", "result_days": "7"}).status_code == 302
    assert AsyncSettings.objects.get().concurrency is None
    client.force_login(people.member)
    assert client.post(place, {"result_days": "1"}).status_code == 404


def test_stopping_and_deleting_say_how_many_wait(client, people, deployment, submit):
    for _ in range(2):
        submit()
    Version.objects.update(status=Status.RUNNING)
    client.force_login(people.operator)
    versions = client.get(reverse("deployments:versions", args=PLACE)).content.decode()
    assert "2 asynchronous requests wait until a version runs again" in versions
    Version.objects.update(status=Status.STOPPED, desired_state="stopped")
    settings = client.get(reverse("deployments:settings", args=PLACE)).content.decode()
    assert "Delete acme/chat for good? 2 waiting asynchronous requests will be cancelled." in settings
    client.post(reverse("deployments:delete", args=PLACE))
    ended = AsyncRequest.objects.filter(state="cancelled", error_code="deployment_deleted")
    assert ended.count() == 2
    # Its sender still finds it; its page in the console is gone with the deployment.
    client.force_login(people.member)
    uid = ended.first().uid.hex
    assert "was deleted" in client.get(reverse("async:own-one", args=[uid])).content.decode()
    assert client.get(reverse("async:one", args=[*PLACE, uid])).status_code == 404


def test_online_testing_queues_as_the_signed_in_user(client, people, deployment):
    client.force_login(people.member)
    wanted = {"method": "POST", "path": "/v1/x", "headers": "X-A: b", "content_type": "application/json", "body": "{}"}

    def send(name="async:send", **more):
        return client.post(reverse(name, args=PLACE), json.dumps(wanted | more), content_type="application/json")

    reply = send(priority="0", queue_s="30", retries="", webhook="https://example.com/x")
    request = AsyncRequest.objects.get()
    assert reply.status_code == 200 and reply.json()["id"] == request.uid.hex
    assert (request.priority, request.retries, request.user_id, request.key_id) == (0, 2, people.member.pk, 0)
    assert client.get(reply.json()["page"]).status_code == 200
    assert client.get(reply.json()["state"]).json()["state"] == "queued"
    end(request)
    told = client.get(reply.json()["state"]).json()
    assert told["state"] == "completed" and "answer" in told["result"]
    for more, field in (
        ({"queue_s": "0"}, "queue_s"), ({"webhook": "nonsense"}, "webhook"), ({"path": "x"}, "path"), ({"body": "{"}, "body"),
        ({"headers": "x-request-id: 1"}, "headers"), ({"retries": "99"}, "retries"),
    ):  # fmt: skip
        refused = send(**more)
        assert refused.status_code == 400 and refused.json()["field"] == field
    assert send("async:send-own").status_code == 200
    client.force_login(people.stranger)
    assert send().status_code == send("async:send-own").status_code == 404
    client.logout()
    assert send().status_code == 401


def test_the_webhook_secret_is_ones_own_and_changes(client, people):
    def shown() -> str:
        return client.get(reverse("async:own")).context["secret"]

    client.force_login(people.member)
    first = shown()
    assert first.startswith("whsec_") and shown() == first
    client.post(reverse("async:change-secret"))
    assert shown() != first
    client.force_login(people.admin)
    assert shown() != first
