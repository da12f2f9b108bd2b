from django.db import models

from accounts.models import Organization
from deployments.models.installation import new_name
from runtimes.allowances import Allowances


def default_allowances() -> dict[str, list[str]]:
    return Allowances().to_json()


class Cluster(models.Model):
    """A place where models run, reached through a runtime driver."""

    class Driver(models.TextChoices):
        LOCAL = "local", "This machine (processes)"
        KUBERNETES = "kubernetes", "Kubernetes"

    class Reach(models.TextChoices):
        ADDRESS = "address", "By the pods' own addresses"
        API_SERVER = "api_server", "Through the cluster's API server"

    class Charge(models.TextChoices):
        OURS = "ours", "This Slipway is in charge"
        CHALLENGED = "challenged", "Another Slipway would like to be in charge"
        OTHERS = "others", "Another Slipway is in charge"
        SAME = "same", "This cluster is entered twice"
        ANOTHER = "another", "Another cluster answers"

    # What Slipway finds out by itself; people's changes leave it alone.
    FOUND = frozenset(
        {
            "charge",
            "charge_address",
            "charge_of",
            "charge_since",
            "charged_as",
            "identity",
            "seen_at",
            "seen_since",
            "takes_charge",
            "uid",
            "unreachable_reason",
        }
    )

    name = models.CharField(max_length=63, unique=True)
    # What its objects carry. Another entry of the same cluster, or one that was made again, has another one.
    uid = models.CharField(max_length=32, unique=True, default=new_name)
    description = models.TextField(blank=True, max_length=2000)
    driver = models.CharField(max_length=16, choices=Driver.choices, default=Driver.LOCAL)
    # For Kubernetes: where instances run, and how the cluster is reached; empty: as a pod of it, by its service account.
    namespace = models.CharField(max_length=63, blank=True)
    # The name of an organization's own namespace, by its parts (runtimes.kubernetes.places); empty: all run in `namespace`.
    # `callers` reach the pods there: networks and names of namespaces.
    namespace_template = models.CharField(max_length=63, blank=True)
    callers = models.JSONField(default=list, blank=True)
    encrypted_kubeconfig = models.TextField(blank=True)
    # How gateways reach instances. Through the API server they need no route to the pods' network.
    reach = models.CharField(max_length=16, choices=Reach.choices, default=Reach.ADDRESS)
    # The API server's own identity (the uid of kube-system), where it may be read: with the namespace it is entered once.
    identity = models.CharField(max_length=64, blank=True)
    # Who acts there. While it isn't us nothing is started, changed or ended; `charge_of` and `charge_address` tell who it is.
    charge = models.CharField(max_length=16, choices=Charge.choices, default=Charge.OURS)
    charge_of = models.CharField(max_length=200, blank=True)
    charge_address = models.CharField(max_length=200, blank=True)
    charge_since = models.DateTimeField(null=True)
    # The name under which this database was in charge last, and whether a person wants it to be, whoever is now.
    charged_as = models.CharField(max_length=200, blank=True)
    takes_charge = models.BooleanField(default=False)
    # Which organizations may use it, and what they may ask for there (runtimes.allowances); operators may ask for anything.
    is_for_all = models.BooleanField(default=True)
    organizations = models.ManyToManyField(Organization, related_name="clusters", blank=True)
    allowances = models.JSONField(default=default_allowances)
    created_at = models.DateTimeField(auto_now_add=True)
    # Since when its state has been read without a pause; while it can't be read, statuses are frozen and `seen_at` tells when
    # it last was. Both are written when that changes only: how it is now stands in Valkey (deployments.cluster_health).
    seen_since = models.DateTimeField(null=True)
    seen_at = models.DateTimeField(null=True)
    unreachable_reason = models.TextField(blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["identity", "namespace"],
                condition=~models.Q(identity=""),
                name="cluster_and_namespace_entered_once",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_proxied(self) -> bool:
        """Whether gateways reach instances through the cluster's API server."""
        return self.reach == self.Reach.API_SERVER

    def serves(self, organization_id: int) -> bool:
        return self.is_for_all or self.organizations.filter(pk=organization_id).exists()

    @property
    def is_ours(self) -> bool:
        """Whether this Slipway may act there."""
        return self.charge in (self.Charge.OURS, self.Charge.CHALLENGED)
