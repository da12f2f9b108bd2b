"""The numbers that instances have in the series."""

from collections.abc import Mapping

from deployments.models import Instance
from monitoring.models import MeteredInstance


def numbers_of(versions: Mapping[str, int]) -> dict[str, int]:
    """Each instance's number by its uid, given as `{uid: version}`; those not met before get one."""
    if not versions:
        return {}
    found = _known(versions)
    # In one order: two writers that meet the same new ones would else wait for each other for ever.
    missing = sorted(uid for uid in versions if uid not in found)
    if missing:
        names = dict(Instance.objects.filter(uid__in=missing).values_list("uid", "name"))
        # Two writers may meet the same one at once: whoever comes second keeps the first one's number.
        MeteredInstance.objects.bulk_create(
            [MeteredInstance(uid=uid, version_id=versions[uid], name=names.get(uid, "")) for uid in missing],
            ignore_conflicts=True,
        )
        found = _known(versions)
    return found


def uid_of_version(version_id: int) -> str:
    """The name under which figures of a version as a whole, as its number of replicas, stand among the instances."""
    return f"version.{version_id}"


def _known(versions: Mapping[str, int]) -> dict[str, int]:
    return dict(MeteredInstance.objects.filter(uid__in=list(versions)).values_list("uid", "number"))
