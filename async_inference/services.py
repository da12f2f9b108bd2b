"""Writers of the queue on behalf of people; dispatchers have their own (dispatcher.py)."""

import hashlib
import re
import uuid
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from accounts import audit
from accounts.models import User
from accounts.permissions import Actor, may_manage
from async_inference import options, statements, states
from async_inference.models import AsyncPayload, AsyncRequest, AsyncSettings, WebhookDelivery, WebhookSecret
from async_inference.options import Options
from common.broadcast import publish_on_commit
from common.encryption import Cipher
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Deployment

MOST_CONCURRENCY, MOST_DAYS = 10_000, 30
AT_ONCE = 5000
_OWN_TOKEN = re.compile(r"\b(slk|slt)_")


def submit(
    deployment: Deployment, *, user: User, organization_id: int, method: str, path: str, headers: Sequence[tuple[str, str]],
    body: bytes, chosen: Options,
) -> AsyncRequest:  # fmt: skip
    """Queue a request of the console's; the caller has asked whether `user` may call the deployment."""
    if len(body) > options.MAX_BODY_BYTES:
        raise ServiceError(f"An asynchronous request has at most {options.MAX_BODY_BYTES >> 20} MiB.", field="body")
    # A key of ours has no business with an instance, and the gateway would take it off again.
    kept = [(name, value) for name, value in headers if not _OWN_TOKEN.search(value)]
    lines = "".join(f"{name}: {value}\r\n" for name, value in kept)
    sealed = Cipher(settings.INSTALLATION_KEYS.encryption).encrypt({"lines": lines})
    uid = _insert(
        deployment, api_id=deployment.api_id, organization=organization_id, user=user.pk, key=0, chosen=chosen,
        method=method, path=path, headers=sealed, body=body,
    )  # fmt: skip
    return AsyncRequest.objects.get(uid=uid)


def retry(request: AsyncRequest, *, actor: Actor) -> AsyncRequest:
    """Queue what has ended once more, in its sender's name: a new request, for an end stays an end."""
    _check(request, actor)
    if not may_send_again(request, actor):
        raise ForbiddenError("It was another organization's: only its sender may send it again, at their own expense.")
    if not request.is_final:
        raise ServiceError(
            f"The request is {request.shown_state}; it can be sent again when it has ended.", code="active"
        )
    payload = AsyncPayload.objects.filter(request=request).first()
    deployment = Deployment.objects.filter(pk=request.deployment_id).select_related("organization").first()
    if payload is None or deployment is None:
        raise ServiceError("Its deployment, or what was sent, does not exist any more.", code="conflict")
    uid = _insert(
        deployment, api_id=request.api_id, organization=request.organization_id, user=request.user_id, key=request.key_id,
        chosen=Options(request.priority, request.queue_s, request.retries, request.webhook_url), method=payload.method,
        path=payload.path, headers=payload.headers, body=bytes(payload.body), retry_of=request.uid,
    )  # fmt: skip
    return AsyncRequest.objects.get(uid=uid)


def _insert(
    deployment: Deployment, *, api_id: str, organization: int, user: int, key: int, chosen: Options, method: str, path: str,
    headers: str, body: bytes, retry_of: uuid.UUID | None = None,
) -> uuid.UUID:  # fmt: skip
    uid = uuid.uuid4()
    values = {
        "uid": uid, "deployment": deployment.pk, "api_id": api_id, "organization": organization, "user": user, "key": key,
        "priority": chosen.priority, "queue_s": chosen.queue_s, "retries": chosen.retries, "payload_bytes": len(body),
        "webhook": chosen.webhook, "idempotency_key": "", "fingerprint": hashlib.sha256(uid.bytes).digest(), "retry_of": retry_of,
        "method": method, "path": path, "headers": headers, "body": body,
        "most_waiting": settings.ASYNC_QUEUE_REQUESTS, "most_bytes": settings.ASYNC_QUEUE_BYTES,
    }  # fmt: skip
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statements.HOLD_QUOTA, values)
        if (held := cursor.fetchone()) is not None:
            cursor.execute(statements.UNFINISHED_OF, {**values, "most": held[0]})
            if cursor.fetchone()[0] >= held[0]:
                raise ServiceError(options.QUOTA_EXCEEDED.format(most=held[0]), code="quota_exceeded")
        cursor.execute(statements.SUBMIT, values)
        if cursor.fetchone() is None:
            raise ServiceError(
                "The queue is full, or its sender's half of it: with so many requests, or so many bytes of requests and kept results. "
                "Try again when some of it has been worked off, or keep results for fewer days.",
                code="queue_full",
            )
    return uid


def cancel(request: AsyncRequest, *, actor: Actor) -> None:
    _check(request, actor)
    name = actor.username if actor else audit.SYSTEM
    with connection.cursor() as cursor:
        cursor.execute(
            statements.CANCEL,
            {"uid": request.uid, "code": "cancelled", "message": f"{name} cancelled it in the console."},
        )
        if cursor.fetchone() is None:
            raise ServiceError("The request has ended already; there is nothing to cancel.", code="conflict")


def cancel_waiting(deployment: Deployment, *, actor: Actor) -> int:
    """Empty the queue; how many were cancelled. What runs goes on."""
    if not may_manage(actor, deployment.organization_id):
        raise ForbiddenError("You may not empty this queue.")
    name = actor.username if actor else audit.SYSTEM
    count = 0
    # In pieces: who waits for one of the rows meanwhile waits for a moment.
    while cancelled := _cancel_some(deployment.pk, "cancelled", f"{name} emptied the queue.", states.WAITING, AT_ONCE):
        count += cancelled
    audit.record(
        actor=actor, action="empty queue", thing=deployment, organization_id=deployment.organization_id,
        changes={"waiting": [count, 0]},
    )  # fmt: skip
    return count


def cancel_all(deployment_id: int, *, code: str, message: str) -> int:
    """All that has not ended; how many."""
    return _cancel_some(deployment_id, code, message, (*states.WAITING, states.RUNNING), None)


def _cancel_some(deployment_id: int, code: str, message: str, which: Sequence[str], most: int | None) -> int:
    with connection.cursor() as cursor:
        values = {"deployment": deployment_id, "code": code, "message": message, "states": list(which), "most": most}
        cursor.execute(statements.CANCEL_ALL, values)
        return int(cursor.fetchone()[0])


def redeliver(request: AsyncRequest, *, actor: Actor) -> None:
    """Send the webhook once more, now, and for another 24 hours should it fail."""
    _check(request, actor)
    changed = WebhookDelivery.objects.filter(request=request).update(
        state=WebhookDelivery.State.PENDING, due_at=Now(), since=Now(), fence=F("fence") + 1
    )
    if not changed:
        raise ServiceError("This request has no webhook, or has not ended yet.", code="conflict")


def change_webhook_secret(user: User) -> None:
    """From now on webhooks of this user are signed with another secret."""
    with transaction.atomic():
        secret, made = WebhookSecret.objects.select_for_update().get_or_create(user=user, defaults={"generation": 2})
        if not made:
            WebhookSecret.objects.filter(pk=secret.pk).update(generation=F("generation") + 1)
        audit.record(actor=user, action="change webhook secret", thing=user)


def update_settings(deployment: Deployment, *, concurrency: int | None, result_days: int, actor: Actor) -> None:
    if not may_manage(actor, deployment.organization_id):
        raise ForbiddenError("You may not change this deployment.")
    before = AsyncSettings.objects.filter(deployment=deployment).first() or AsyncSettings(deployment=deployment)
    wanted: dict[str, Any] = {"concurrency": concurrency, "result_days": result_days}
    changes = {name: [getattr(before, name), value] for name, value in wanted.items() if getattr(before, name) != value}
    if not changes:
        return
    with transaction.atomic():
        AsyncSettings.objects.update_or_create(deployment=deployment, defaults=wanted)
        audit.record(
            actor=actor, action="update", thing=deployment, organization_id=deployment.organization_id, changes=changes
        )
        publish_on_commit("deployment", deployment.pk)


def may_touch(request: AsyncRequest, actor: Actor) -> bool:
    """Its sender may, and who manages the deployment: for these two its content is, too."""
    if actor is not None and actor.is_authenticated and actor.pk == request.user_id:
        return True
    owner = Deployment.objects.filter(pk=request.deployment_id).values_list("organization_id", flat=True).first()
    return owner is not None and may_manage(actor, owner)


def may_send_again(request: AsyncRequest, actor: Actor) -> bool:
    """Its sender may; who manages the deployment, only what their own organization pays for."""
    if actor is not None and actor.pk == request.user_id:
        return True
    return Deployment.objects.filter(pk=request.deployment_id, organization_id=request.organization_id).exists()


def _check(request: AsyncRequest, actor: Actor) -> None:
    if not may_touch(request, actor):
        raise ForbiddenError("This request is somebody else's.")
