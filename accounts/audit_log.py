"""The page of the audit log."""

from datetime import datetime, time, timedelta

from django.contrib.auth.decorators import login_required
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.dateparse import parse_date

from accounts.models import AUDITED, AuditEntry
from accounts.permissions import may_administer
from accounts.selectors import visible_audit_entries
from common.numbers import whole

PAGE_SIZE = 50


@login_required
def audit_log(request: HttpRequest) -> HttpResponse:
    """Who changed what, from what to what, when, from where: for operators and organization admins."""
    if not may_administer(request.user):
        raise Http404
    wanted = {name: request.GET.get(name, "").strip()[:100] for name in ("search", "kind", "since", "until")}
    found = _narrowed(visible_audit_entries(request.user).select_related("organization"), wanted)
    before = whole(request.GET.get("before", ""))
    if before is not None:
        found = found.filter(pk__lt=before)
    rows = list(found.order_by("-pk")[: PAGE_SIZE + 1])
    query = request.GET.copy()
    query.pop("before", None)
    context = {
        "rows": rows[:PAGE_SIZE],
        "next_before": rows[PAGE_SIZE - 1].pk if len(rows) > PAGE_SIZE else None,
        "wanted": wanted,
        "kinds": AUDITED.items(),
        "query": query.urlencode(),
        "is_narrowed": any(wanted.values()) or before is not None,
    }
    return render(request, "accounts/audit_log.html", context)


def _narrowed(entries: QuerySet[AuditEntry], wanted: dict[str, str]) -> QuerySet[AuditEntry]:
    """By what is searched for, and by days of the server's time zone, both included."""
    search = wanted["search"]
    if search:
        entries = entries.filter(
            Q(actor_label__icontains=search)
            | Q(object_label__icontains=search)
            | Q(action__icontains=search)
            | Q(source__startswith=search)
        )
    if wanted["kind"]:
        entries = entries.filter(object_type=wanted["kind"])
    since, until = _day(wanted["since"]), _day(wanted["until"])
    if since:
        entries = entries.filter(at__gte=since)
    if until:
        entries = entries.filter(at__lt=until + timedelta(days=1))
    return entries


def _day(text: str) -> datetime | None:
    try:
        day = parse_date(text)
    except ValueError:
        return None
    # The calendar's last year has no day behind it.
    return timezone.make_aware(datetime.combine(day, time())) if day and day.year < 9999 else None
