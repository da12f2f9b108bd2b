from django.db import models

from accounts.models import User
from deployments.models.deployment import Deployment


class Price(models.Model):
    """What a deployment's tokens cost from a moment on, until the next price begins. Never changed: costs refer to it.

    Amounts are for a million tokens, in the currency's own unit; without a currency the deployment is free from then on.
    It outlives its deployment: what was running when that was deleted is booked afterwards.
    """

    # The most that the amounts' digits hold.
    MOST = 99_999_999

    deployment = models.ForeignKey(Deployment, on_delete=models.DO_NOTHING, db_constraint=False, related_name="prices")
    # A full minute: each minute of the ledger has one price.
    since = models.DateTimeField()
    currency = models.CharField(max_length=3, blank=True)
    input_price = models.DecimalField(max_digits=14, decimal_places=6, default=0)
    output_price = models.DecimalField(max_digits=14, decimal_places=6, default=0)
    # Of input tokens that the engine had cached; null: they cost what other input does.
    cached_price = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True)

    class Meta:
        ordering = ["-since", "-pk"]
        constraints = [models.UniqueConstraint(fields=["deployment", "since"], name="price_once_per_moment")]

    def __str__(self) -> str:
        if not self.currency:
            return "free"
        cached = "" if self.cached_price is None else f" (cached {self.cached_price})"
        return f"{self.input_price}{cached} / {self.output_price} {self.currency}"
