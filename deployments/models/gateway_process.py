from datetime import timedelta

from django.db import connection, models
from django.db.models import ExpressionWrapper
from django.db.models.functions import Now


class GatewayProcess(models.Model):
    """A gateway as it tells of itself: that it lives, and which version of the directory it routes by.

    All moments are the database's, so that clocks of gateways that differ don't matter. A gateway that ends in order
    takes its row along; one that is killed stays as "unreachable since".
    """

    UNREACHABLE_AFTER_S = 10

    name = models.CharField(max_length=80, primary_key=True)
    epoch = models.BigIntegerField()
    address = models.CharField(max_length=120)
    in_flight = models.IntegerField()
    acknowledged_version = models.BigIntegerField()
    acknowledged_at = models.DateTimeField()
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    # Since when it can't reach Valkey and counts limits alone, by its share of them.
    alone_since = models.DateTimeField(null=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def beat(name: str, epoch: int, *, address: str, version: int, in_flight: int, is_alone: bool = False) -> None:
        """Note that the gateway lives. An acknowledgement keeps the moment at which it came first."""
        with connection.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO deployments_gatewayprocess AS known
                    (name, epoch, address, in_flight, acknowledged_version, acknowledged_at, started_at, seen_at,
                     alone_since)
                VALUES (%(name)s, %(epoch)s, %(address)s, %(in_flight)s, %(version)s, clock_timestamp(),
                        clock_timestamp(), clock_timestamp(), CASE WHEN %(is_alone)s THEN clock_timestamp() END)
                ON CONFLICT (name) DO UPDATE SET
                    epoch = EXCLUDED.epoch, address = EXCLUDED.address, in_flight = EXCLUDED.in_flight,
                    acknowledged_version = EXCLUDED.acknowledged_version,
                    acknowledged_at = CASE WHEN known.acknowledged_version = EXCLUDED.acknowledged_version
                        THEN known.acknowledged_at ELSE EXCLUDED.acknowledged_at END,
                    started_at = CASE WHEN known.epoch = EXCLUDED.epoch THEN known.started_at ELSE EXCLUDED.started_at END,
                    seen_at = EXCLUDED.seen_at,
                    alone_since = CASE WHEN %(is_alone)s THEN coalesce(known.alone_since, EXCLUDED.seen_at) END
                """,
                {
                    "name": name,
                    "epoch": epoch,
                    "address": address,
                    "in_flight": in_flight,
                    "version": version,
                    "is_alone": is_alone,
                },
            )

    @classmethod
    def living(cls) -> models.QuerySet["GatewayProcess"]:
        """Those that have told of themselves lately."""
        since = ExpressionWrapper(Now() - timedelta(seconds=cls.UNREACHABLE_AFTER_S), models.DateTimeField())
        return cls.objects.filter(seen_at__gt=since)

    @staticmethod
    def farewell(name: str, epoch: int) -> None:
        GatewayProcess.objects.filter(name=name, epoch=epoch).delete()
