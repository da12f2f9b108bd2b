"""Tokens that were made without an end get one: so long after the upgrade that whoever uses them can renew them before."""

from datetime import timedelta

from django.db import migrations, models
from django.utils import timezone


def end_in_ninety_days(apps, schema_editor):
    apps.get_model("accounts", "ApiToken").objects.update(expires_at=timezone.now() + timedelta(days=90))


class Migration(migrations.Migration):
    dependencies = [("accounts", "0004_usernames_without_case")]

    operations = [
        migrations.AddField(
            model_name="apitoken",
            name="scope",
            field=models.CharField(
                choices=[("read", "Read only"), ("deploy", "Read and change")], default="deploy", max_length=16
            ),
        ),
        migrations.AddField("apitoken", "lifetime_days", models.PositiveIntegerField(default=90)),
        migrations.AddField("apitoken", "expires_at", models.DateTimeField(null=True)),
        migrations.RunPython(end_in_ninety_days, migrations.RunPython.noop),
        migrations.AlterField("apitoken", "expires_at", models.DateTimeField()),
    ]
