from django.db import migrations

TABLES = ("monitoring_usage_minute", "monitoring_usage_day")
COLUMNS = (
    "cached_tokens", "reasoning_tokens", "audio_tokens", "search_units", "estimated_untold", "estimated_cancelled",
    "estimated_failed",
)  # fmt: skip


class Migration(migrations.Migration):
    """The ledger keeps tokens of each kind, and why some were estimated. What was booked before has none of it."""

    dependencies = [("monitoring", "0007_request_totals")]

    operations = [
        migrations.RunSQL(
            f"ALTER TABLE {table} {', '.join(f'ADD COLUMN {name} bigint NOT NULL DEFAULT 0' for name in COLUMNS)};",
            f"ALTER TABLE {table} {', '.join(f'DROP COLUMN {name}' for name in COLUMNS)};",
        )
        for table in TABLES
    ]
