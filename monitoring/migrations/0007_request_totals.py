import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    """What deployments have served since ever, for other monitoring systems to read."""

    dependencies = [("monitoring", "0006_fleet")]

    operations = [
        migrations.CreateModel(
            name="RequestTotals",
            fields=[
                ("deployment_id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("counts", django.contrib.postgres.fields.ArrayField(models.BigIntegerField())),
                ("sums", django.contrib.postgres.fields.ArrayField(models.FloatField())),
                ("buckets", django.contrib.postgres.fields.ArrayField(models.BigIntegerField())),
            ],
        )
    ]
