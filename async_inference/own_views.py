"""Developer Hub: the asynchronous requests that one sent oneself, and Online Testing's way into the queue."""

import json
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from async_inference import options, pages, selectors, services, signature
from async_inference.models import WebhookSecret
from async_inference.options import InvalidOptionError
from common.service_error import ServiceError
from deployments.models import Deployment
from deployments.relay import InvalidTestError, parse_test
from deployments.selectors import calling_organization_id
from deployments.views.access import get_deployment
from deployments.views.hub import get_usable

# The form's names of options.
_FIELDS = {
    options.PRIORITY: "priority",
    options.QUEUE_S: "queue_s",
    options.WEBHOOK: "webhook",
    options.RETRIES: "retries",
}


@login_required
def own_requests(request: HttpRequest) -> HttpResponse:
    context = pages.rows(request, selectors.own_requests(request.user)) | {"gateway_url": settings.GATEWAY_URL}
    generation = WebhookSecret.objects.filter(user=request.user).values_list("generation", flat=True).first() or 1
    own = [signature.secret_of(request.user.pk, generation, key) for key in settings.INSTALLATION_KEYS.webhooks]
    context |= {"secret": own[0], "has_former_secret": len(own) > 1}
    response = render(request, "async_inference/own.html", context)
    response["Cache-Control"] = "no-store"
    return response


@login_required
def own_rows(request: HttpRequest) -> HttpResponse:
    return render(request, "async_inference/_queue.html", pages.rows(request, selectors.own_requests(request.user)))


@login_required
def own_one(request: HttpRequest, uid: str) -> HttpResponse:
    item = pages.find(selectors.own_requests(request.user), uid)
    return render(request, "async_inference/own_one.html", pages.detail(item, request))


@login_required
def own_result(request: HttpRequest, uid: str) -> HttpResponse:
    return pages.result_file(pages.find(selectors.own_requests(request.user), uid), request)


@login_required
def own_state(request: HttpRequest, uid: str) -> HttpResponse:
    return pages.state(pages.find(selectors.own_requests(request.user), uid))


@login_required
@require_POST
def own_act(request: HttpRequest, uid: str, action: str) -> HttpResponse:
    item = pages.find(selectors.own_requests(request.user), uid)
    try:
        item = pages.act(item, action, request)
        messages.success(request, pages.ACTIONS[action])
    except ServiceError as error:
        messages.error(request, str(error))
    return redirect("async:own-one", item.uid.hex)


@login_required
@require_POST
def change_secret(request: HttpRequest) -> HttpResponse:
    services.change_webhook_secret(request.user)
    messages.success(request, "Webhooks are signed with a new secret from now on. Enter it at your receivers.")
    return redirect("async:own")


@require_POST
def send(request: HttpRequest, organization: str, name: str) -> JsonResponse:
    return _send(request, organization, name, get_deployment)


@require_POST
def send_own(request: HttpRequest, organization: str, name: str) -> JsonResponse:
    return _send(request, organization, name, get_usable)


def _send(
    request: HttpRequest, organization: str, name: str, find: Callable[[HttpRequest, str, str], Deployment]
) -> JsonResponse:
    """Queue what Online Testing composed; where its state is told."""
    if not request.user.is_authenticated:
        return JsonResponse({"error": "You are signed out. Sign in again."}, status=401)
    try:
        deployment = find(request, organization, name)
        read = json.loads(request.body)
        wanted: dict[str, Any] = read if isinstance(read, dict) else {}
        test = parse_test(wanted)
        given = {header: str(wanted.get(field, "")).strip() for header, field in _FIELDS.items()}
        chosen = options.read(given, webhook_networks=settings.WEBHOOK_NETWORKS)
        item = services.submit(
            deployment, user=request.user, organization_id=calling_organization_id(request.user, deployment),
            method=test.method, path=test.path, headers=test.headers, body=test.body, chosen=chosen,
        )  # fmt: skip
    except Http404:
        return JsonResponse({"error": "This deployment does not exist any more."}, status=404)
    except RequestDataTooBig:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE >> 20
        error = f"A test from the browser has at most {limit} MiB. Use the cURL command for larger bodies."
        return JsonResponse({"error": error, "field": "body"}, status=413)
    except InvalidTestError as error:
        return JsonResponse({"error": str(error), "field": error.field}, status=400)
    except InvalidOptionError as error:
        return JsonResponse({"error": str(error), "field": _FIELDS.get(error.field, "")}, status=400)
    except ServiceError as error:
        return JsonResponse({"error": str(error), "field": error.field}, status=409)
    except (ValueError, UnicodeDecodeError, RecursionError):
        return JsonResponse({"error": "The request could not be read. Reload the page and try again."}, status=400)
    uid = item.uid.hex
    return JsonResponse(
        {"id": uid, "page": reverse("async:own-one", args=[uid]), "state": reverse("async:own-state", args=[uid])}
    )
