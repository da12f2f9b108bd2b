from typing import Any

from django.db import migrations, models

import deployments.models.cluster

KINDS = ("annotations", "labels", "tolerations", "node_selectors", "images", "claims")


def allow_what_was_allowed(apps: Any, schema_editor: Any) -> None:
    """What runs on clusters of earlier builds must be startable again. New clusters begin with less."""
    apps.get_model("deployments", "Cluster").objects.update(allowances={kind: ["*"] for kind in KINDS})


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0006_browser_sessions"),
        ("deployments", "0013_default_access"),
    ]

    operations = [
        migrations.AddField(
            model_name="cluster",
            name="allowances",
            field=models.JSONField(default=deployments.models.cluster.default_allowances),
        ),
        migrations.AddField(
            model_name="cluster",
            name="is_for_all",
            field=models.BooleanField(default=True),
        ),
        migrations.AddField(
            model_name="cluster",
            name="organizations",
            field=models.ManyToManyField(blank=True, related_name="clusters", to="accounts.organization"),
        ),
        migrations.RunPython(allow_what_was_allowed, migrations.RunPython.noop),
    ]
