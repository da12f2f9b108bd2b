"""Whether this Slipway may act in a cluster: it is the cluster that was entered, entered once, and nobody else is in charge.

While it may not, statuses are frozen and pages say why. What is found is written where it differs only.
"""

import logging

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from common.broadcast import publish
from deployments.models import Cluster, Installation
from runtimes.claim import Claimant
from runtimes.driver import Driver

log = logging.getLogger(__name__)


def may_act(cluster: Cluster, driver: Driver) -> bool:
    """Look who is in charge, and take charge where nobody else is. Raises ClusterUnreachableError."""
    if not _is_the_one(cluster, driver.identity()):
        return False
    me = Claimant(Installation.name(), Installation.incarnation(), cluster.uid, settings.PUBLIC_URL)
    stepped_back = cluster.charge == Cluster.Charge.OTHERS
    # Who has stepped back stays out, after a restart of its own too, until a person decides.
    earlier = "" if stepped_back else cluster.charged_as
    claim = driver.claim(me, earlier=earlier, by_force=cluster.takes_charge, stepped_back=stepped_back)
    if not claim.in_charge and _is_former_entry(claim.other, me):
        claim = driver.claim(me, earlier=claim.other, by_force=cluster.takes_charge)
    if claim.in_charge:
        _note(
            cluster,
            charge=Cluster.Charge.CHALLENGED if claim.other else Cluster.Charge.OURS,
            charge_of=claim.other,
            charge_address=claim.address,
            # What nobody was told of is no claim of before, after a restart.
            charged_as=me.name if claim.is_told else cluster.charged_as,
            takes_charge=False,
        )
        return True
    if not claim.is_waiting:
        _note(cluster, charge=Cluster.Charge.OTHERS, charge_of=claim.other, charge_address=claim.address)
    return False


def _is_former_entry(holder: str, me: Claimant) -> bool:
    """Whether it was this very database, by an entry of the cluster that has been deleted since."""
    ours, _, uid = holder.rpartition(".")
    return ours == f"{me.installation}.{me.incarnation}" and not Cluster.objects.filter(uid=uid).exists()


def _is_the_one(cluster: Cluster, identity: str) -> bool:
    """Whether it is the cluster that was entered, and entered once. Where its identity can't be read, that is believed."""
    if not identity:
        # Not to be read now: what was found before stands.
        return cluster.takes_charge or cluster.charge not in (Cluster.Charge.SAME, Cluster.Charge.ANOTHER)
    if identity == cluster.identity:
        return True
    if cluster.identity and not cluster.takes_charge:
        _note(cluster, charge=Cluster.Charge.ANOTHER, charge_of=identity, charge_address="")
        return False
    twin = Cluster.objects.filter(identity=identity, namespace=cluster.namespace).exclude(pk=cluster.pk).first()
    if twin is not None:
        _note(cluster, charge=Cluster.Charge.SAME, charge_of=twin.name, charge_address="")
        return False
    try:
        with transaction.atomic():
            Cluster.objects.filter(pk=cluster.pk).update(identity=identity)
    except IntegrityError:
        # Another entry was faster: the next look finds it.
        return False
    cluster.identity = identity
    return True


def _note(cluster: Cluster, **found: object) -> None:
    """Write what differs from what is known."""
    changes = {name: value for name, value in found.items() if getattr(cluster, name) != value}
    if not changes:
        return
    if "charge" in changes:
        changes["charge_since"] = timezone.now()
        log.warning("%s: %s %s", cluster, Cluster.Charge(str(found["charge"])).label, found.get("charge_of", ""))
    Cluster.objects.filter(pk=cluster.pk).update(**changes)
    for name, value in changes.items():
        setattr(cluster, name, value)
    publish("cluster", cluster.pk)
