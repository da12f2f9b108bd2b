"""The form of a deployment's next price."""

from decimal import Decimal
from typing import Any

from django import forms
from iso4217 import Currency

from deployments.models import Price

# Metals and test codes have no unit to count in.
CURRENCIES = sorted(
    (item.code, f"{item.code} – {item.currency_name}") for item in Currency if item.exponent is not None
)


class PriceForm(forms.Form):
    currency = forms.ChoiceField(choices=[("", "Free of charge"), *CURRENCIES], required=False)
    input_price = forms.DecimalField(
        label="A million input tokens", required=False, min_value=0, max_digits=14, decimal_places=6
    )
    cached_price = forms.DecimalField(
        label="A million cached input tokens",
        required=False,
        min_value=0,
        max_digits=14,
        decimal_places=6,
        help_text="Empty: same as other input tokens. Cached tokens are those that the engine already has from earlier requests.",
    )
    output_price = forms.DecimalField(
        label="A million output tokens", required=False, min_value=0, max_digits=14, decimal_places=6
    )
    since = forms.DateTimeField(
        label="From (UTC)",
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"],
        help_text="Empty: from the next minute on. What was used before keeps its price.",
    )

    def __init__(self, data: Any = None, *, price: Price | None = None) -> None:
        shown = price if price and price.currency else None
        known = {name: getattr(shown, name, None) for name in ("input_price", "cached_price", "output_price")}
        amounts = {name: f"{amount.normalize():f}" for name, amount in known.items() if amount is not None}
        super().__init__(data, initial={"currency": shown.currency if shown else "", **amounts})

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        given = [values.get(name) for name in ("input_price", "output_price")]
        if values.get("currency") and not self.errors and given == [None, None]:
            self.add_error("input_price", "Write at least one amount; 0 where a kind of token costs nothing.")
        return values

    def amounts(self) -> tuple[Decimal, Decimal, Decimal | None]:
        """Of a million input, output and cached input tokens."""
        values = self.cleaned_data
        return values["input_price"] or Decimal(0), values["output_price"] or Decimal(0), values["cached_price"]
