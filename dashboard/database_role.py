"""The embedded server's database belongs to a role that can do nothing beyond it: what breaks into the application reads no files
and runs no programs through PostgreSQL."""

import psycopg
from psycopg import sql

from dashboard.home import DATABASE_ROLE, Home

# Everything in the application's schema that belongs to somebody else, as the superuser made it in earlier builds.
_FOREIGN = """
SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
WHERE n.nspname = 'public' AND r.rolname <> %s AND c.relkind IN ('r', 'p', 'S', 'v', 'm')
    -- A sequence of a column follows its table.
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
"""


def own_database(home: Home, *, may_create_databases: bool = False) -> None:
    """Make the role where it is missing, and give it what it needs. Does nothing where all is as it should be."""
    role = sql.Identifier(DATABASE_ROLE)
    with psycopg.connect(home.superuser_url, connect_timeout=5) as connection:
        known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [DATABASE_ROLE]).fetchone()
        if known is None:
            connection.execute(sql.SQL("CREATE ROLE {}").format(role))
        rights = "LOGIN NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS " + (
            "CREATEDB" if may_create_databases else "NOCREATEDB"
        )
        password = sql.Literal(home.role_password)
        connection.execute(sql.SQL("ALTER ROLE {} WITH " + rights + " PASSWORD {}").format(role, password))
        connection.execute(sql.SQL("ALTER DATABASE slipway OWNER TO {}").format(role))
        for kind, name in connection.execute(_FOREIGN, [DATABASE_ROLE]).fetchall():
            change = sql.SQL("ALTER " + kind + " public.{} OWNER TO {}")
            connection.execute(change.format(sql.Identifier(name), role))
