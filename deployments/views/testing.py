"""Online Testing: the page, and the POST that hands a request to the relay."""

import json
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from deployments import relay
from deployments.views.access import get_deployment, tab_context
from runtimes.engines.registry import engines


@login_required
def testing(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    version = deployment.current_version
    examples: list[dict[str, Any]] = []
    if version is not None:
        engine = engines().get(version.specification.engine)
        for example in engine.examples(version.specification) if engine else ():
            body = json.dumps(example.body, indent=2) if example.body is not None else ""
            examples.append({"title": example.title, "method": example.method, "path": example.path, "body": body})
    address = f"{settings.GATEWAY_URL}/{deployment.endpoint.name}/{deployment.name}"
    live = list(version.instances.filter(ended_at=None)) if version else []
    context = tab_context(
        deployment, "testing", examples=examples, address=address, methods=relay.METHODS, live_instances=live
    )
    return render(request, "deployments/testing.html", context)


@require_POST
async def send_test(request: HttpRequest, organization: str, name: str) -> JsonResponse:
    """Take the request, start the relay, answer with the id under which its frames come over the websocket."""
    user = await request.auser()
    if not user.is_authenticated:
        return JsonResponse({"error": "You are signed out. Sign in again."}, status=401)
    try:
        deployment = await sync_to_async(get_deployment)(request, organization, name)
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
    test_id = await relay.start(test, deployment, user)
    return JsonResponse({"id": test_id})
