from django.db import migrations

LATENCIES = ("end_to_end", "inference", "queue", "first_token")
LATENCY_COLUMNS = "".join(
    f"{name}_sum double precision NOT NULL, {name}_max double precision NOT NULL, {name}_sketch bytea NOT NULL, "
    for name in LATENCIES
)
OUTCOMES = ("completed", "failed", "cancelled", "rejected", "expired")


class Migration(migrations.Migration):
    """Tables partitioned by day: old days are dropped whole."""

    dependencies = [("monitoring", "0001_initial")]

    operations = [
        migrations.RunSQL(
            f"""
            CREATE TABLE monitoring_request_series (
                bucket timestamptz NOT NULL, tier smallint NOT NULL,
                deployment_id bigint NOT NULL, version_id bigint NOT NULL,
                instance_uid varchar(64) NOT NULL, source varchar(80) NOT NULL,
                status_2xx integer NOT NULL, status_3xx integer NOT NULL,
                status_4xx integer NOT NULL, status_5xx integer NOT NULL,
                {"".join(f"{name} integer NOT NULL, " for name in OUTCOMES)}
                input_tokens bigint NOT NULL, output_tokens bigint NOT NULL,
                {LATENCY_COLUMNS}
                PRIMARY KEY (tier, version_id, instance_uid, bucket, source)
            ) PARTITION BY RANGE (bucket);
            CREATE INDEX monitoring_request_series_deployment ON monitoring_request_series (deployment_id, tier, bucket);

            CREATE TABLE monitoring_system_samples (
                hour timestamptz NOT NULL, instance_uid varchar(64) NOT NULL, version_id bigint NOT NULL,
                cores double precision NOT NULL, memory_total bigint NOT NULL,
                offsets smallint[] NOT NULL, cpu_user real[] NOT NULL, cpu_system real[] NOT NULL,
                memory_used bigint[] NOT NULL, gpu_indexes smallint[] NOT NULL, gpu_utilization real[] NOT NULL,
                gpu_memory_used bigint[] NOT NULL, gpu_memory_total bigint NOT NULL, gpu_reason text NOT NULL,
                PRIMARY KEY (instance_uid, hour)
            ) PARTITION BY RANGE (hour);
            CREATE INDEX monitoring_system_samples_version ON monitoring_system_samples (version_id, hour);

            CREATE TABLE monitoring_usage_minute (
                minute timestamptz NOT NULL, deployment_id bigint NOT NULL, organization_id bigint NOT NULL,
                user_id bigint NOT NULL, key_id bigint NOT NULL, source varchar(16) NOT NULL, key_label varchar(120) NOT NULL,
                {"".join(f"{name} bigint NOT NULL, " for name in OUTCOMES)}
                input_tokens bigint NOT NULL, output_tokens bigint NOT NULL, estimated_tokens bigint NOT NULL,
                PRIMARY KEY (deployment_id, organization_id, user_id, key_id, source, minute)
            ) PARTITION BY RANGE (minute);
            """,
            "DROP TABLE monitoring_request_series, monitoring_system_samples, monitoring_usage_minute;",
        )
    ]
