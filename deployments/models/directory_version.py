from django.db import connection, models


class DirectoryVersion(models.Model):
    """One row: the version of everything that the gateway's directory shows.

    Taken with a row lock as the last statement of each changing transaction, so that versions become visible in
    their order; a plain sequence loses changes that commit out of order.
    """

    id = models.SmallIntegerField(primary_key=True)
    v = models.BigIntegerField(default=0)
    changed_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return str(self.v)

    @staticmethod
    def bump() -> int:
        """Take the next version and tell the gateways; the notification leaves with the commit."""
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE deployments_directoryversion SET v = v + 1, changed_at = clock_timestamp() WHERE id = 1 RETURNING v"
            )
            v: int = cursor.fetchone()[0]
            cursor.execute("SELECT pg_notify('slipway_directory', %s)", [str(v)])
        return v
