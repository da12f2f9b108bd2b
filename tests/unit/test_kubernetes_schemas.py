"""Everything we create in clusters, held against the published schema of each Kubernetes version that the test cluster isn't built of.

Strictly: a field that a version doesn't know, and would drop without a word, is an error here.
"""

from typing import Any

import kubernetes_validate
import pytest

from runtimes.claim import Claimant
from runtimes.kubernetes import lease, manifest
from runtimes.kubernetes.abilities import Abilities, read
from tests.unit.test_golden_manifests import CASES, objects

VERSIONS = list(dict.fromkeys(kubernetes_validate.utils.all_versions()))


def abilities_of(version: str) -> Abilities:
    major, minor, *_rest = version.split(".")
    return read(
        {"major": major, "minor": minor}, [{"name": "policy", "preferredVersion": {"groupVersion": "policy/v1"}}]
    )


def everything(version: str) -> list[dict[str, Any]]:
    has = abilities_of(version)
    made = [item for name in CASES for item in objects(name, sleeps=has.sleeps)]
    made.append(manifest.disruption_budget(made[0], has.disruption_api))
    made.append(lease.body(Claimant("here", "1", "c1", "https://slipway.example"), {"resourceVersion": "7"}))
    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_knows_every_field_that_we_write(version):
    for item in everything(version):
        kubernetes_validate.validate(item, version, strict=True)


def test_a_field_that_a_version_lacks_is_noticed():
    assert {"1.32.0", "1.36.0"} <= set(VERSIONS)
    with pytest.raises(kubernetes_validate.ValidationError, match="sleep"):
        for item in objects("simulator", sleeps=True):
            kubernetes_validate.validate(item, "1.28.0", strict=True)
