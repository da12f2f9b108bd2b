"""Django's PostgreSQL backend, whose failed attempts to connect leave no socket open."""

from typing import Any

from django.db.backends.postgresql import base

from common.postgresql.attempts import closed_on_failure


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        with closed_on_failure():
            return super().get_new_connection(conn_params)
