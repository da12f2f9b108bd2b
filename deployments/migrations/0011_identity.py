import hashlib

import django.db.models.deletion
from django.apps.registry import Apps
from django.conf import settings
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.models import F, Value
from django.db.models.functions import Cast, Concat

import deployments.models.installation
import deployments.models.version


def keep_names(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    """What runs keeps the names under which it was started: its labels can't change without an end of its pods."""
    version, cluster = apps.get_model("deployments", "Version"), apps.get_model("deployments", "Cluster")
    version.objects.update(key=Concat(Value("v"), Cast(F("pk"), models.CharField())))
    for row in cluster.objects.all():
        row.uid = deployments.models.installation.new_name()
        row.save(update_fields=["uid"])
    name = deployments.models.installation.new_name()
    if cluster.objects.filter(driver="kubernetes").exists():
        # How earlier builds named an installation.
        name = hashlib.sha256(f"installation:{settings.SECRET_KEY}".encode()).hexdigest()[:16]
    apps.get_model("deployments", "Installation").objects.create(id=1, uid=name)


class Migration(migrations.Migration):
    dependencies = [("deployments", "0010_wanted_until_a_person_says_otherwise")]

    operations = [
        migrations.CreateModel(
            name="Installation",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("uid", models.CharField(default=deployments.models.installation.new_name, max_length=32)),
            ],
        ),
        migrations.AddField("cluster", "uid", models.CharField(default="", max_length=32)),
        migrations.AddField("version", "key", models.CharField(default="", max_length=63)),
        migrations.RunPython(keep_names, migrations.RunPython.noop),
        migrations.AlterField(
            "cluster",
            "uid",
            models.CharField(default=deployments.models.installation.new_name, max_length=32, unique=True),
        ),
        migrations.AlterField(
            "version", "key", models.CharField(default=deployments.models.version.new_key, max_length=63, unique=True)
        ),
        migrations.AddField(
            "cluster", "identity", models.CharField(blank=True, max_length=64, default=""), preserve_default=False
        ),
        migrations.AddField(
            "cluster",
            "charge",
            models.CharField(
                choices=[
                    ("ours", "This Slipway is in charge"),
                    ("challenged", "Another Slipway would like to be in charge"),
                    ("others", "Another Slipway is in charge"),
                    ("same", "This cluster is entered twice"),
                    ("another", "Another cluster answers"),
                ],
                default="ours",
                max_length=16,
            ),
        ),
        migrations.AddField(
            "cluster", "charge_of", models.CharField(blank=True, max_length=200, default=""), preserve_default=False
        ),
        migrations.AddField(
            "cluster",
            "charge_address",
            models.CharField(blank=True, max_length=200, default=""),
            preserve_default=False,
        ),
        migrations.AddField("cluster", "charge_since", models.DateTimeField(null=True)),
        migrations.AddField(
            "cluster", "charged_as", models.CharField(blank=True, max_length=200, default=""), preserve_default=False
        ),
        migrations.AddField("cluster", "takes_charge", models.BooleanField(default=False)),
        migrations.AddConstraint(
            "cluster",
            models.UniqueConstraint(
                fields=("identity", "namespace"),
                condition=models.Q(("identity", ""), _negated=True),
                name="cluster_and_namespace_entered_once",
            ),
        ),
        migrations.CreateModel(
            name="LeftBehind",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("version_key", models.CharField(max_length=63, unique=True)),
                ("cluster_name", models.CharField(max_length=63)),
                ("namespace", models.CharField(blank=True, max_length=63)),
                ("description", models.CharField(max_length=300)),
                ("forgotten_by", models.CharField(max_length=150)),
                ("forgotten_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name="Stranger",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=253)),
                ("version_key", models.CharField(blank=True, max_length=63)),
                ("generation", models.PositiveIntegerField(default=0)),
                ("replicas", models.PositiveIntegerField(default=0)),
                ("ready", models.PositiveIntegerField(default=0)),
                ("installation", models.CharField(blank=True, max_length=63)),
                ("owner_cluster", models.CharField(blank=True, max_length=63)),
                ("description", models.TextField(blank=True)),
                ("first_seen_at", models.DateTimeField(auto_now_add=True)),
                (
                    "cluster",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="strangers",
                        to="deployments.cluster",
                    ),
                ),
            ],
            options={
                "ordering": ["name"],
                "constraints": [models.UniqueConstraint(fields=("cluster", "name"), name="stranger_once_per_cluster")],
            },
        ),
    ]
