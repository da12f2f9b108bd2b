from django.db import migrations, models

OUTCOMES = ("completed", "failed", "cancelled", "rejected", "expired")
SUMS = (*OUTCOMES, "input_tokens", "output_tokens", "estimated_tokens")
KEY = ("deployment_id", "organization_id", "user_id", "key_id", "source")


class Migration(migrations.Migration):
    """The ledger's costs, its sums by day, and what deployments are called in it when they are gone."""

    dependencies = [("monitoring", "0003_books"), ("deployments", "0008_limits_and_prices")]

    operations = [
        migrations.RunSQL(
            f"""
            ALTER TABLE monitoring_usage_minute
                ADD COLUMN currency varchar(3) NOT NULL DEFAULT '', ADD COLUMN cost numeric(30, 12) NOT NULL DEFAULT 0;
            CREATE TABLE monitoring_usage_day (
                day date NOT NULL, {"".join(f"{name} bigint NOT NULL, " for name in KEY[:-1])}
                source varchar(16) NOT NULL, currency varchar(3) NOT NULL, key_label varchar(120) NOT NULL,
                {"".join(f"{name} bigint NOT NULL, " for name in SUMS)}
                cost numeric(30, 12) NOT NULL,
                PRIMARY KEY ({", ".join(KEY)}, currency, day)
            );
            CREATE INDEX monitoring_usage_day_day ON monitoring_usage_day (day);
            CREATE INDEX monitoring_usage_day_organization ON monitoring_usage_day (organization_id, day);
            CREATE INDEX monitoring_usage_day_user ON monitoring_usage_day (user_id, day);
            INSERT INTO monitoring_usage_day (day, {", ".join(KEY)}, currency, key_label, {", ".join(SUMS)}, cost)
                SELECT (minute AT TIME ZONE 'UTC')::date, {", ".join(KEY)}, currency, max(key_label),
                    {", ".join(f"sum({name})" for name in SUMS)}, sum(cost)
                FROM monitoring_usage_minute GROUP BY (minute AT TIME ZONE 'UTC')::date, {", ".join(KEY)}, currency;
            """,  # noqa: S608 (our own constants)
            "DROP TABLE monitoring_usage_day; ALTER TABLE monitoring_usage_minute DROP COLUMN currency, DROP COLUMN cost;",
        ),
        migrations.CreateModel(
            name="DeploymentName",
            fields=[
                ("deployment_id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("organization_id", models.BigIntegerField(db_index=True)),
                ("api_id", models.CharField(max_length=130)),
                ("model_id", models.BigIntegerField()),
                ("model", models.CharField(max_length=200)),
                ("labels", models.JSONField(default=dict)),
            ],
        ),
        migrations.RunSQL(
            """
            INSERT INTO monitoring_deploymentname (deployment_id, organization_id, api_id, model_id, model, labels)
                SELECT deployment.id, deployment.organization_id, organization.name || '/' || deployment.name,
                    model.id, model.name, coalesce((
                        SELECT version.specification_json -> 'labels' FROM deployments_version version
                        WHERE version.deployment_id = deployment.id ORDER BY version.number DESC LIMIT 1), '{}')
                FROM deployments_deployment deployment
                JOIN accounts_organization organization ON organization.id = deployment.organization_id
                JOIN deployments_model model ON model.id = deployment.model_id;
            """,
            migrations.RunSQL.noop,
        ),
        migrations.CreateModel(
            name="UsageDay",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "deployment_id",
                        "organization_id",
                        "user_id",
                        "key_id",
                        "source",
                        "currency",
                        "day",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("day", models.DateField()),
                ("deployment_id", models.BigIntegerField()),
                ("organization_id", models.BigIntegerField()),
                ("user_id", models.BigIntegerField()),
                ("key_id", models.BigIntegerField()),
                ("source", models.CharField(max_length=16)),
                ("currency", models.CharField(max_length=3)),
                ("key_label", models.CharField(max_length=120)),
                ("completed", models.BigIntegerField()),
                ("failed", models.BigIntegerField()),
                ("cancelled", models.BigIntegerField()),
                ("rejected", models.BigIntegerField()),
                ("expired", models.BigIntegerField()),
                ("input_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("estimated_tokens", models.BigIntegerField()),
                ("cost", models.DecimalField(decimal_places=12, max_digits=30)),
            ],
            options={
                "db_table": "monitoring_usage_day",
                "managed": False,
            },
        ),
    ]
