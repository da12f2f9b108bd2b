"""Names that differ by case alone: signing in doesn't tell them apart, so neither person could. The earliest account keeps the name."""

import logging

from django.db import migrations, models
from django.db.models.functions import Lower

log = logging.getLogger(__name__)


def rename_later_ones(apps, schema_editor):
    user_model, entry_model = apps.get_model("accounts", "User"), apps.get_model("accounts", "AuditEntry")
    users = list(user_model.objects.order_by("date_joined", "pk"))
    all_names = {user.username.lower() for user in users}
    kept = set()
    for user in users:
        before = user.username
        if before.lower() in kept:
            user.username = _free_name(before[:140], all_names)
            user.save(update_fields=["username"])
            entry_model.objects.create(
                actor_label="Slipway", action="update", object_type="user", object_id=str(user.pk),
                object_label=user.username, changes={"username": [before, user.username]},
            )  # fmt: skip
            log.warning(
                "Two users are called %s but for its case. The later one signs in as %s from now on: tell the person.",
                before,
                user.username,
            )
        kept.add(user.username.lower())
        all_names.add(user.username.lower())


def _free_name(name, taken):
    number = 2
    while f"{name}-{number}".lower() in taken:
        number += 1
    return f"{name}-{number}"


class Migration(migrations.Migration):
    dependencies = [("accounts", "0003_invitation")]

    operations = [
        migrations.RunPython(rename_later_ones, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.UniqueConstraint(Lower("username"), name="username_without_case"),
        ),
    ]
