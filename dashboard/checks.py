"""What `manage.py check --deploy` finds wrong with this installation's own settings."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register

from common.installation_keys import PURPOSES


@register(Tags.security, deploy=True)
def each_purpose_has_a_key_of_its_own(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    newest = [getattr(settings.INSTALLATION_KEYS, purpose)[0] for purpose in PURPOSES]
    if len(set(newest)) == len(newest):
        return []
    return [
        Warning(
            "One key serves several purposes: who learns it can read stored secrets and sign as anyone.",
            hint="Set SLIPWAY_KEYS_FILE, or a key for each purpose beside SECRET_KEY (docs/security.md).",
            id="slipway.W001",
        )
    ]
