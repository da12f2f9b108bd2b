"""Celery: wakes work up. What has to be done is in the database, so a lost or doubled message does no harm."""

import os

from celery import Celery
from celery.schedules import crontab

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dashboard.settings")

app = Celery("slipway")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["deployments", "monitoring", "async_inference"])
app.conf.beat_schedule = {
    "reconcile": {"task": "deployments.sweep", "schedule": 10.0, "options": {"expires": 10}},
    "collect-system-metrics": {"task": "monitoring.collect_system", "schedule": 10.0, "options": {"expires": 10}},
    # A minute behind the end of the finest blocks' spans, so that most are written once and whole.
    "roll-up": {"task": "monitoring.roll_up", "schedule": crontab(minute="1-59/10"), "options": {"expires": 600}},
    "fleet": {"task": "monitoring.make_fleet", "schedule": crontab(), "options": {"expires": 60}},
    "measure-queues": {"task": "async_inference.measure", "schedule": 10.0, "options": {"expires": 10}},
    "forget-async-requests": {"task": "async_inference.forget", "schedule": 600.0, "options": {"expires": 600}},
    "hold-token-quotas": {"task": "monitoring.hold_token_quotas", "schedule": 30.0, "options": {"expires": 30}},
    "check-books": {"task": "monitoring.check_books", "schedule": 60.0, "options": {"expires": 60}},
    "bound-logs": {"task": "monitoring.bound_logs", "schedule": 300.0, "options": {"expires": 300}},
    "ensure-partitions": {"task": "monitoring.ensure_partitions", "schedule": 3600.0, "options": {"expires": 3600}},
}
