import secrets

from django.db import connection, models


def new_name() -> str:
    """A name that nobody else has."""
    return secrets.token_hex(8)


class Installation(models.Model):
    """One row: which Slipway this is. What it makes in clusters carries the name, whatever becomes of its keys."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    uid = models.CharField(max_length=32, default=new_name)

    def __str__(self) -> str:
        return self.uid

    @classmethod
    def name(cls) -> str:
        return cls.objects.get_or_create(id=1)[0].uid

    @staticmethod
    def incarnation() -> str:
        """Differs for each start of the database's server and for each database there: a copy has another one."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT to_hex(oid::bigint) || '-' || to_hex((extract(epoch FROM pg_postmaster_start_time()) * 1e6)::bigint)"
                " FROM pg_database WHERE datname = current_database()"
            )
            return str(cursor.fetchone()[0])
