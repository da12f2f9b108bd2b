from django.db import migrations, models


class Migration(migrations.Migration):
    """All deployments' figures minute by minute, for the page that shows them side by side."""

    dependencies = [("monitoring", "0005_series")]

    operations = [
        migrations.CreateModel(
            name="FleetMinute",
            fields=[
                ("minute", models.BigIntegerField(primary_key=True, serialize=False)),
                ("columns", models.BinaryField()),
                ("requests", models.BinaryField()),
            ],
        )
    ]
