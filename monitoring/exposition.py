"""`/metrics`: everything that Slipway measures, in Prometheus' text format, for people's own monitoring."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from rest_framework.authentication import SessionAuthentication
from rest_framework.decorators import api_view, authentication_classes, content_negotiation_class, permission_classes
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request

from accounts.api_token import TokenAuthentication
from accounts.models import User
from accounts.permissions import is_operator
from common.request_outcomes import LATENCIES, OUTCOMES
from deployments.models import DirectoryVersion, Status
from deployments.selectors import current_versions, gateway_processes, visible_deployments
from monitoring import books, series, totals
from monitoring.models import MeteredInstance, RequestTotals
from monitoring.request_frame import CLASSES, COUNTS
from monitoring.system_frame import NO_DEVICE
from monitoring.tiers import TIERS

# Samples older than this are no "now".
FRESH_S = 45
_HISTOGRAMS = {
    "end_to_end": ("slipway_request_duration_seconds", "From a request's arrival to the last byte of its answer."),
    "inference": ("slipway_inference_duration_seconds", "From handing a request to an instance to the last byte of its answer."),
    "queue": ("slipway_queue_duration_seconds", "From a request's arrival until an instance took it."),
    "first_token": ("slipway_time_to_first_token_seconds", "From a request's arrival to the first piece of a streamed answer."),
}  # fmt: skip
# Of each figure of an instance: the gauge's name, what it says, and a label that tells figures of one gauge apart.
_GAUGES = {
    "cpu_user": ("slipway_instance_cpu_cores", "CPU cores in use.", ("mode", "user")),
    "cpu_system": ("slipway_instance_cpu_cores", "CPU cores in use.", ("mode", "system")),
    "cpu_total": ("slipway_instance_cpu_cores", "CPU cores in use.", ("mode", "total")),
    "memory_used": ("slipway_instance_memory_bytes", "Memory in use.", None),
    "gpu_utilization": ("slipway_gpu_utilization_ratio", "Share of time in which a kernel runs on the GPU.", None),
    "gpu_memory_used": ("slipway_gpu_memory_used_bytes", "GPU memory in use.", None),
    "gpu_memory_total": ("slipway_gpu_memory_total_bytes", "GPU memory there is.", None),
    "requests_running": ("slipway_engine_requests", "Requests inside the engine.", ("state", "running")),
    "requests_waiting": ("slipway_engine_requests", "Requests inside the engine.", ("state", "waiting")),
    "kv_cache_use": ("slipway_engine_kv_cache_ratio", "Share of the KV cache in use.", None),
}  # fmt: skip


class _AnyType(BaseContentNegotiation):
    """The encoder looks at what is accepted by itself; here only errors are rendered."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


@extend_schema(exclude=True)
@api_view(["GET", "HEAD"])
@content_negotiation_class(_AnyType)
@authentication_classes([TokenAuthentication, SessionAuthentication])
@permission_classes([IsAuthenticated])
def metrics(request: Request) -> HttpResponse:
    """What the token's user may see. One series per deployment or instance, however many requests there were."""
    registry = CollectorRegistry()
    registry.register(_Everything(request.user))
    encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encoder(registry), content_type=content_type)


class _Everything(Collector):
    def __init__(self, user: User) -> None:
        self._user = user
        found = visible_deployments(user).values_list("pk", "organization__name", "name", "environment")
        self._labels = {pk: [f"{organization}/{name}", environment] for pk, organization, name, environment in found}

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield from self._books()
        yield from self._versions()
        yield from self._instances()
        if is_operator(self._user):
            yield from _gateways()

    def _requests(self) -> Iterator[Metric]:
        names = ["deployment", "environment"]
        codes = CounterMetricFamily(
            "slipway_requests", "Requests by the class of their answer's status.", labels=[*names, "code"]
        )
        outcomes = CounterMetricFamily(
            "slipway_request_outcomes", "Requests by how they ended.", labels=[*names, "outcome"]
        )
        tokens = CounterMetricFamily("slipway_tokens", "Tokens, told by engines or estimated.", labels=[*names, "kind"])
        histograms = {name: HistogramMetricFamily(*_HISTOGRAMS[name], labels=names) for name in LATENCIES}
        for row in RequestTotals.objects.filter(deployment_id__in=list(self._labels)).iterator():
            labels, found = self._labels[row.deployment_id], totals.read(row)
            counts = dict(zip(COUNTS, found.counts.tolist(), strict=True))
            for name in CLASSES:
                codes.add_metric([*labels, name.removeprefix("status_")], counts[name])
            for name in OUTCOMES:
                outcomes.add_metric([*labels, name], counts[name])
            for name in ("input", "output"):
                tokens.add_metric([*labels, name], counts[f"{name}_tokens"])
            for index, name in enumerate(LATENCIES):
                bounds = [*(f"{bound:g}" for bound in totals.BOUNDS), "+Inf"]
                cumulative = found.buckets[index].tolist()
                histograms[name].add_metric(
                    labels, list(zip(bounds, cumulative, strict=True)), float(found.sums[index])
                )
        yield from (codes, outcomes, tokens, *histograms.values())

    def _books(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "slipway_requests_in_flight", "Requests that are being served.", labels=["deployment", "environment"]
        )
        for pk, number in books.in_flight(list(self._labels)).items():
            in_flight.add_metric(self._labels[pk], number)
        yield in_flight

    def _versions(self) -> Iterator[Metric]:
        names = ["deployment", "environment"]
        status = GaugeMetricFamily(
            "slipway_deployment_status",
            "1 for the status that the deployment has.",
            labels=[*names, "version", "status"],
        )
        replicas = GaugeMetricFamily(
            "slipway_replicas", "Replicas of the version that tells the status.", labels=[*names, "state"]
        )
        for version in current_versions().filter(deployment_id__in=list(self._labels)):
            labels = self._labels[version.deployment_id]
            for item in Status.values:
                status.add_metric([*labels, str(version.number), item], float(version.status == item))
            replicas.add_metric([*labels, "wanted"], 0 if version.is_inactive else version.replicas)
            replicas.add_metric([*labels, "ready"], version.ready)
        yield from (status, replicas)

    def _instances(self) -> Iterator[Metric]:
        """The last sample of each instance that has one of the last seconds."""
        versions = dict(
            current_versions().filter(deployment_id__in=list(self._labels)).values_list("pk", "deployment_id")
        )
        now = int(time.time())
        with series.snapshot():
            samples = series.system(list(versions), now - FRESH_S, now + 1, TIERS[0])
        known = MeteredInstance.objects.filter(number__in=np.unique(samples.instance).tolist()).values_list(
            "number", "version_id", "name"
        )
        instances = {
            number: (self._labels[versions[version]], name) for number, version, name in known if version in versions
        }
        gauges: dict[str, GaugeMetricFamily] = {}
        for figure, (name, words, extra) in _GAUGES.items():
            found = samples.of(figure)
            # Sorted by time last: the last row of each instance and device is the newest.
            newest = {
                (number, device): value
                for number, device, value in zip(
                    found.instance.tolist(), found.device.tolist(), found.average.tolist(), strict=True
                )
            }
            has_device = "gpu" in figure
            names = [
                "deployment",
                "environment",
                "instance",
                *(["device"] if has_device else []),
                *([extra[0]] if extra else []),
            ]
            gauge = gauges.setdefault(name, GaugeMetricFamily(name, words, labels=names))
            for (number, device), value in newest.items():
                if number not in instances:
                    continue
                labels, instance = instances[number]
                parts = [*labels, instance, *([str(device)] if has_device and device != NO_DEVICE else [])]
                gauge.add_metric([*parts, *([extra[1]] if extra else [])], value)
        yield from gauges.values()


def _gateways() -> Iterator[Metric]:
    up = GaugeMetricFamily("slipway_gateway_up", "1 while the gateway tells that it lives.", labels=["gateway"])
    behind = GaugeMetricFamily(
        "slipway_gateway_directory_behind", "Changes that the gateway has not applied yet.", labels=["gateway"]
    )
    wanted = DirectoryVersion.objects.get(pk=1).v
    for gateway in gateway_processes():
        up.add_metric([gateway.name], float(gateway.is_reachable))
        behind.add_metric([gateway.name], max(0, wanted - gateway.acknowledged_version))
    missing = GaugeMetricFamily(
        "slipway_books_missing",
        "Requests that were admitted and have no end in the books; 0 unless we are at fault.",
        value=books.over_all().missing,
    )
    yield from (up, behind, missing)
