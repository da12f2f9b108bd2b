"""The processes of one machine as a configuration for supervisord."""

import os
import shlex
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from dashboard.embedded_servers import VALKEYS, EmbeddedServers
from dashboard.home import PROJECT, SERVER_USER, Home


@dataclass(frozen=True)
class Process:
    """One program under supervision. `priority` orders starts; `stop_wait_s` is its time to end in order."""

    name: str
    command: list[str]
    priority: int
    as_server_user: bool = False
    stop_signal: str = "TERM"
    stop_wait_s: int = 10


def server_processes(home: Home, *, postgres: bool, valkey: bool) -> list[Process]:
    """The embedded servers that are not replaced by DATABASE_URL or REDIS_URL."""
    servers = EmbeddedServers(home)
    processes = []
    if postgres:
        # INT is PostgreSQL's fast shutdown; TERM would wait for every client to leave.
        processes.append(
            Process("postgres", servers.postgres_command(), 1, as_server_user=True, stop_signal="INT", stop_wait_s=30)
        )
    if valkey:
        processes += [Process(name, servers.valkey_command(name), 1, as_server_user=True) for name in VALKEYS]
    return processes


def application_processes(*, host: str, port: int, gateway_port: int, gateways: int = 1) -> list[Process]:
    """The product's own processes. Several gateways share one port: the kernel spreads connections over them."""
    python = sys.executable
    celery = [python, "-m", "celery", "-A", "dashboard"]
    # --timeout-graceful-shutdown: open websockets would otherwise keep the process from ending.
    web = [python, "-m", "uvicorn", "dashboard.asgi:application", "--host", host, "--port", str(port), "--no-access-log",
           "--timeout-graceful-shutdown", "5", "--ws-max-size", "1048576", "--lifespan", "off",
           # Who is calling is told by SLIPWAY_TRUSTED_PROXIES alone; uvicorn would believe anything from this machine.
           "--no-proxy-headers", "--no-server-header", "--http", "dashboard.http_protocol:BoundedHttpProtocol",
           "--limit-concurrency", "4096"]  # fmt: skip
    return [
        Process("web", web, 10),
        *[_gateway(python, host, gateway_port, number) for number in range(1, gateways + 1)],
        Process(
            "worker",
            [
                *celery,
                "worker",
                "--pool",
                "threads",
                "--concurrency",
                "4",
                "--loglevel",
                "WARNING",
                "--without-gossip",
                "--without-mingle",
            ],
            20,
            stop_wait_s=15,
        ),
        Process(
            "beat",
            [
                *celery,
                "beat",
                "--loglevel",
                "WARNING",
                "--schedule",
                str(Home().path / "beat-schedule"),
                "--pidfile",
                "",
            ],
            20,
        ),
        # Its own time for what runs is 8 s.
        Process("dispatcher", [python, "manage.py", "dispatcher"], 20, stop_wait_s=15),
        Process("watcher", [python, "manage.py", "watcher"], 20, stop_wait_s=15),
    ]


def _gateway(python: str, host: str, port: int, number: int) -> Process:
    """The first keeps the machine's name: its books lie in a folder of that name."""
    command = [python, "-m", "gateway", "--host", host, "--port", str(port)]
    if number > 1:
        command += ["--name", f"{socket.gethostname()}-{number}"]
    return Process("gateway" if number == 1 else f"gateway-{number}", command, 10, stop_wait_s=30)


def supervisor_configuration(home: Home, processes: list[Process], environment: dict[str, str]) -> str:
    """The text of supervisord.conf. Nothing starts by itself: `up` starts each when what it needs is there."""
    socket = home.supervisor_socket
    sections = [
        f"[unix_http_server]\nfile={socket}\nchmod=0600\n",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
        f"[supervisord]\nnodaemon=true\nlogfile={home.logs}/supervisord.log\nlogfile_maxbytes=5MB\nlogfile_backups=1\n"
        f"pidfile={home.path}/supervisord.pid\nloglevel=info\nstrip_ansi=true\n",
    ]
    for process in processes:
        user = f"user={SERVER_USER}\n" if process.as_server_user and home.is_root else ""
        directory = home.servers if process.as_server_user else PROJECT
        own_environment = {} if process.as_server_user else environment
        pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in own_environment.items())
        sections.append(
            f"[program:{process.name}]\ncommand={_escape(shlex.join(_dies_with_parent(process.command, process.stop_signal)))}\ndirectory={directory}\n{user}"
            f"environment={pairs}\nautostart=false\nautorestart=true\nstartsecs=1\nstartretries=1000000\n"
            f"stopsignal={process.stop_signal}\nstopwaitsecs={process.stop_wait_s}\nkillasgroup=true\nstopasgroup=false\n"
            f"priority={process.priority}\nredirect_stderr=true\nstdout_logfile={home.logs}/{process.name}.log\n"
            "stdout_logfile_maxbytes=10MB\nstdout_logfile_backups=2\n"
        )
    return "\n".join(sections)


def _dies_with_parent(command: list[str], stop_signal: str) -> list[str]:
    """Ended in order by the kernel when supervisord itself is killed; else they would run on with nobody to stop them."""
    return ["setpriv", "--pdeathsig", stop_signal, "--", *command] if shutil.which("setpriv") else command


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def supervisord_command(configuration: Path) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", str(configuration), "-n"]


def application_environment(home: Home, *, host: str, public_url: str, gateway_url: str) -> dict[str, str]:
    """What the application's processes need to find each other; secrets stay in the home's file."""
    return {
        "DJANGO_SETTINGS_MODULE": "dashboard.settings",
        "SLIPWAY_HOME": str(home.path),
        "SLIPWAY_HOST": host,
        "SLIPWAY_PUBLIC_URL": public_url,
        "SLIPWAY_GATEWAY_URL": gateway_url,
        "PYTHONUNBUFFERED": "1",
        "PATH": os.environ["PATH"],
    }
