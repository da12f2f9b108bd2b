"""Starts a real PostgreSQL and a real Valkey for the test run, before Django reads its settings.

Loaded with `-p tests.embedded_servers`. DATABASE_URL and REDIS_URL, when set, are used instead.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import environ
import psycopg

from dashboard.database_role import own_database
from dashboard.embedded_servers import VALKEYS, EmbeddedServers
from dashboard.home import Home, server_user
from dashboard.own_keys import own_keys

_processes: list[subprocess.Popen[bytes]] = []


def _start() -> None:
    folder = Path(tempfile.mkdtemp(prefix="slipway-test-"))
    os.environ["SLIPWAY_HOME"] = str(folder)
    home = Home(folder)
    home.create()
    # As the product does: where servers have been started already, missing keys are a loss.
    own_keys(environ.Env(), home)
    atexit.register(_stop, home)
    if os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"):
        return
    servers = EmbeddedServers(home)
    servers.initialise()
    user = server_user() if home.is_root else None
    commands = []
    if not os.environ.get("DATABASE_URL"):
        # Durability costs time and a test database needs none.
        commands.append([*servers.postgres_command(), "-c", "fsync=off", "-c", "full_page_writes=off"])
    if not os.environ.get("REDIS_URL"):
        commands += [servers.valkey_command(name) for name in VALKEYS]
    for command in commands:
        log = (folder / f"{Path(command[-1]).stem}.log").open("wb")
        _processes.append(
            subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=home.servers,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )
        )
    _await_socket(home)
    if not os.environ.get("DATABASE_URL"):
        _own_database(home)


def _own_database(home: Home) -> None:
    """The socket is there before the server takes anybody in."""
    deadline = time.monotonic() + 60
    while True:
        try:
            own_database(home, may_create_databases=True)
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _await_socket(home: Home) -> None:
    deadline = time.monotonic() + 30
    while not (home.run / ".s.PGSQL.5432").exists():
        if os.environ.get("DATABASE_URL"):
            return
        if time.monotonic() > deadline:
            raise RuntimeError("the tests' PostgreSQL did not start")
        time.sleep(0.05)


def _stop(home: Home) -> None:
    for process in _processes:
        process.kill()
        process.wait()
    shutil.rmtree(home.servers, ignore_errors=True)
    shutil.rmtree(home.path, ignore_errors=True)


_start()
