"""`manage.py up`: the whole product on one machine, until Ctrl-C."""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import redis
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from dashboard.database_role import own_database
from dashboard.embedded_servers import EmbeddedServers
from dashboard.first_start import OPERATOR, ensure_demo, ensure_operator
from dashboard.home import Home
from dashboard.processes import (
    application_environment,
    application_processes,
    server_processes,
    supervisor_configuration,
)
from dashboard.supervision import Progress, Supervision
from deployments.drivers import local_driver
from deployments.models import Deployment

BUSY_PROCESSES = ["beat", "worker", "dispatcher"]
INSTANCES_END_WITHIN_S = 60.0


class Command(BaseCommand):
    help = "Starts everything on this machine and stays until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=os.environ.get("SLIPWAY_HOST", "127.0.0.1"))
        parser.add_argument("--port", type=int, default=int(os.environ.get("SLIPWAY_PORT", "8000")))
        parser.add_argument("--gateway-port", type=int, default=int(os.environ.get("SLIPWAY_GATEWAY_PORT", "8080")))
        parser.add_argument(
            "--gateways",
            type=int,
            default=int(os.environ.get("SLIPWAY_GATEWAYS", "1")),
            help="gateway processes that share the port",
        )
        parser.add_argument("--no-demo", action="store_true", help="don't create the demo organization")

    def handle(self, *args: Any, **options: Any) -> None:
        home: Home = settings.HOME
        home.create()
        lock = self._lock(home)
        self._stopping = False
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGHUP, self._stop)
        host = options["host"]
        port = self._usable_port(host, options["port"], "console")
        gateway_port = self._usable_port(host, options["gateway_port"], "gateway", avoid=port)
        # Not settings.DATABASE_URL: that is never empty.
        embedded = {"postgres": not os.environ.get("DATABASE_URL"), "valkey": not os.environ.get("REDIS_URL")}
        if any(embedded.values()):
            self.stdout.write(EmbeddedServers(home).initialise())
        servers = server_processes(home, **embedded)
        gateways = options["gateways"]
        if not 1 <= gateways <= 64:
            raise CommandError("--gateways is 1 to 64.")
        applications = application_processes(host=host, port=port, gateway_port=gateway_port, gateways=gateways)
        shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
        public_url = os.environ.get("SLIPWAY_PUBLIC_URL", f"http://{shown_host}:{port}")
        gateway_url = os.environ.get("SLIPWAY_GATEWAY_URL", f"http://{shown_host}:{gateway_port}")
        environment = application_environment(home, host=host, public_url=public_url, gateway_url=gateway_url)
        supervision = Supervision(home, supervisor_configuration(home, servers + applications, environment))
        supervision.start()
        try:
            # Not before: servers of an earlier start may have been ending until now.
            home.take_over_data()
            supervision.start_processes([process.name for process in servers])
            self._await_stores(supervision)
            call_command("migrate", verbosity=0, interactive=False)
            password = ensure_operator()
            if not options["no_demo"]:
                ensure_demo(self._access(host))
            connections.close_all()
            names = [process.name for process in applications]
            supervision.start_processes(names)
            self._await_console(public_url, supervision)
            self._announce(public_url, password)
            while not self._stopping and supervision.is_alive():
                time.sleep(0.3)
            if not self._stopping:
                self.stderr.write("supervisord ended unexpectedly; stopping.")
        finally:
            self._shut_down(home, supervision)
            lock.close()

    def _access(self, host: str) -> str:
        """As the processes that are started will have it: `--host` came after the settings."""
        is_said = bool(os.environ.get("SLIPWAY_DEFAULT_ACCESS"))
        return settings.DEFAULT_ACCESS if is_said or host in settings.LOOPBACK else Deployment.Access.KEY_ONLY

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _lock(self, home: Home) -> Any:
        lock = (home.path / "up.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"Slipway already runs from this folder ({home.path}). Stop it with Ctrl-C in its terminal first."
            ) from None
        return lock

    def _usable_port(self, host: str, wanted: int, what: str, avoid: int | None = None) -> int:
        for candidate in (wanted, 0):
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listener.bind((host, candidate))
                except OSError:
                    self.stdout.write(f"Port {candidate} for the {what} is in use; taking a free one.")
                    continue
                port = listener.getsockname()[1]
                if port != avoid:
                    return port
        raise CommandError(f"No free port for the {what} on {host}.")

    def _await_stores(self, supervision: Supervision) -> None:
        home: Home = settings.HOME

        def postgres() -> None:
            if not os.environ.get("DATABASE_URL"):
                own_database(home)
            psycopg.connect(settings.DATABASE_URL, connect_timeout=2).close()

        def valkey() -> None:
            for url in (settings.REDIS_URL, settings.SCRATCH_REDIS_URL):
                redis.Redis.from_url(url, socket_timeout=2).ping()

        self._await("PostgreSQL", postgres, psycopg.Error, supervision, "postgres")
        self._await("Valkey", valkey, redis.RedisError, supervision, "valkey")

    def _await_console(self, url: str, supervision: Supervision) -> None:
        def check() -> None:
            httpx.get(f"{url}/healthz", timeout=5, trust_env=False).raise_for_status()

        if url.startswith("http://"):
            self._await("The console", check, httpx.HTTPError, supervision, "web")

    def _await(
        self, what: str, check: Callable[[], None], error: type[Exception], supervision: Supervision, process: str
    ) -> None:
        """Until it answers, however long a busy machine takes; not when its process does nothing, or dies again and again."""
        progress = Progress(lambda: supervision.work_of(process))
        while not self._stopping:
            try:
                check()
                return
            except error as problem:
                if progress.has_ended():
                    raise CommandError(
                        f"{what} does not answer: {problem}. Its log is in {settings.HOME.logs}."
                    ) from None
                time.sleep(0.2)

    def _announce(self, url: str, password: str | None) -> None:
        self.stdout.write("")
        if password:
            self.stdout.write(f"  First operator:  {OPERATOR}")
            self.stdout.write(f"  Password:        {password}   (shown once)")
            self.stdout.write("")
        self.stdout.write(self.style.SUCCESS(f"  Slipway is ready: {url}"))
        self.stdout.write("  Ctrl-C stops everything.\n")
        # Into a file or a pipe it would otherwise stay in the buffer, password included.
        self.stdout.flush()

    def _shut_down(self, home: Home, supervision: Supervision) -> None:
        """In this order: first who would start instances anew, then the instances, last who stores their last lines."""
        self.stdout.write("Stopping …")
        try:
            if supervision.is_alive():
                supervision.stop_processes(BUSY_PROCESSES)
        finally:
            try:
                for path in home.instances.iterdir():
                    if path.name.isdigit():
                        local_driver(int(path.name)).end_all(timeout_s=INSTANCES_END_WITHIN_S)
            finally:
                supervision.shut_down()
        self.stdout.write("Stopped.")
