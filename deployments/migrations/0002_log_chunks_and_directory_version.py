from django.db import migrations


class Migration(migrations.Migration):
    """The log table is partitioned by day, which Django's schema editor can't say."""

    dependencies = [("deployments", "0001_initial")]

    operations = [
        migrations.RunSQL(
            """
            CREATE TABLE deployments_log_chunk (
                instance_uid varchar(64) NOT NULL,
                first_position bigint NOT NULL,
                sealed_at timestamptz NOT NULL,
                last_position bigint NOT NULL,
                line_count integer NOT NULL,
                data bytea NOT NULL,
                PRIMARY KEY (instance_uid, first_position, sealed_at)
            ) PARTITION BY RANGE (sealed_at);
            INSERT INTO deployments_directoryversion (id, v) VALUES (1, 1);
            """,
            "DROP TABLE deployments_log_chunk; DELETE FROM deployments_directoryversion;",
        )
    ]
