"""What an operator chooses for a deployment's queue."""

from typing import Any

from django import forms

from async_inference.models import AsyncSettings
from async_inference.places import engine_concurrency
from async_inference.services import MOST_CONCURRENCY, MOST_DAYS
from deployments.models import Deployment


class QueueSettingsForm(forms.Form):
    concurrency = forms.IntegerField(
        label="Requests at once on each instance", required=False, min_value=1, max_value=MOST_CONCURRENCY
    )
    result_days = forms.IntegerField(
        label="Days that results are kept", min_value=1, max_value=MOST_DAYS,
        help_text="With the requests themselves; then both are deleted.",
    )  # fmt: skip

    def __init__(self, data: Any = None, *, deployment: Deployment) -> None:
        chosen = AsyncSettings.objects.filter(deployment=deployment).first() or AsyncSettings(deployment=deployment)
        super().__init__(data, initial={"concurrency": chosen.concurrency, "result_days": chosen.result_days})
        version = deployment.current_version  # type: ignore[attr-defined]
        usual = engine_concurrency(version.specification) if version else 1
        field = self.fields["concurrency"]
        field.widget.attrs["placeholder"] = f"{usual:,}"
        field.help_text = f"Empty: {usual:,}, what the engine works on at once. Less leaves room for ordinary requests."
