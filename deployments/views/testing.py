"""Online Testing: the page, in the console and in the Developer Hub, and the POST that hands a request to the relay."""

import json
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST

from deployments import relay
from deployments.models import Deployment
from deployments.selectors import calling_organization_id
from deployments.views.access import get_deployment, tab_context
from deployments.views.hub import address_of, examples_of, get_usable

Find = Callable[[HttpRequest, str, str], Deployment]


@login_required
def testing(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """In the console: with the log and the charts beside."""
    deployment = get_deployment(request, organization, name)
    version = deployment.current_version
    live = list(version.instances.filter(ended_at=None)) if version else []
    values = _tester(deployment, "deployments:send-test") | {"live_instances": live}
    return render(request, "deployments/testing.html", tab_context(deployment, "testing", **values))


@login_required
def hub_testing(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """In the Developer Hub, for all who may call it."""
    deployment = get_usable(request, organization, name)
    values = _tester(deployment, "hub:send-test")
    return render(request, "hub/testing.html", tab_context(deployment, "testing", **values))


def _tester(deployment: Deployment, send: str) -> dict[str, Any]:
    examples = []
    for example in examples_of(deployment):
        body = json.dumps(example.body, indent=2) if example.body is not None else ""
        examples.append({"title": example.title, "method": example.method, "path": example.path, "body": body})
    return {
        "examples": examples,
        "address": address_of(deployment),
        "methods": relay.METHODS,
        "send_url": reverse(send, args=[deployment.organization.name, deployment.name]),
    }


@require_POST
async def send_test(request: HttpRequest, organization: str, name: str) -> JsonResponse:
    return await _send(request, organization, name, get_deployment)


@require_POST
async def hub_send_test(request: HttpRequest, organization: str, name: str) -> JsonResponse:
    return await _send(request, organization, name, get_usable)


async def _send(request: HttpRequest, organization: str, name: str, find: Find) -> JsonResponse:
    """Take the request, start the relay, answer with the id under which its frames come over the websocket."""
    user = await request.auser()
    if not user.is_authenticated:
        return JsonResponse({"error": "You are signed out. Sign in again."}, status=401)
    try:
        deployment = await sync_to_async(find)(request, organization, name)
    except Http404:
        return JsonResponse({"error": "This deployment does not exist any more."}, status=404)
    try:
        wanted = json.loads(request.body)
        test = relay.parse_test(wanted if isinstance(wanted, dict) else {})
    except RequestDataTooBig:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE >> 20
        return JsonResponse(
            {
                "error": f"A test from the browser has at most {limit} MiB. Use the cURL command for larger bodies.",
                "field": "body",
            },
            status=413,
        )
    except relay.InvalidTestError as error:
        return JsonResponse({"error": str(error), "field": error.field}, status=400)
    except (ValueError, UnicodeDecodeError, RecursionError):
        return JsonResponse({"error": "The request could not be read. Reload the page and try again."}, status=400)
    account = await sync_to_async(calling_organization_id)(user, deployment)
    try:
        test_id = await relay.start(test, deployment, user, account)
    except relay.TooManyTestsError as error:
        return JsonResponse({"error": str(error)}, status=429)
    return JsonResponse({"id": test_id})
