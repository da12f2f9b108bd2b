"""Where Slipway keeps what it writes: `.slipway/` in the project, and, as root, a folder that servers may enter.

PostgreSQL refuses to run as root and must reach its data, but a project below /root can't be entered by another
user. So as root the servers' data and a copy of their programs live in /var/lib/slipway/<hash>, owned by an
unprivileged user; no existing folder is ever made more open.
"""

import contextlib
import hashlib
import os
import pwd
import secrets
import socket
import stat
import subprocess
from functools import cached_property
from pathlib import Path

from common import atomic_file

PROJECT = Path(__file__).resolve().parents[1]
# Of their own: whoever else runs as a shared account could read their passwords and change who is let in.
SERVER_USER = "slipway-servers"
DATABASE_ROLE = "slipway_app"
SOCKET_PATH_LIMIT = 90


def server_user() -> pwd.struct_passwd:
    """The account that the embedded servers run as where Slipway runs as root; made when it is missing."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)
    command = [
        "useradd",
        "--system",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/usr/sbin/nologin",
        SERVER_USER,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        # Two first starts at once: the other one has made it.
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(SERVER_USER)
        raise RuntimeError(
            f"The embedded servers need the account {SERVER_USER}, which could not be made ({error}). "
            f"Make it with: {' '.join(command)}. Or set DATABASE_URL and REDIS_URL, or don't run as root."
        ) from None
    return pwd.getpwnam(SERVER_USER)


class Home:
    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(os.environ.get("SLIPWAY_HOME", PROJECT / ".slipway"))
        self._hash = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:12]

    @property
    def is_root(self) -> bool:
        return os.geteuid() == 0

    @property
    def logs(self) -> Path:
        return self.path / "log"

    @property
    def instances(self) -> Path:
        return self.path / "instances"

    @property
    def gateway(self) -> Path:
        return self.path / "gateway"

    @property
    def servers(self) -> Path:
        """Data, sockets and programs of the embedded servers."""
        return Path("/var/lib/slipway") / self._hash if self.is_root else self.path / "servers"

    @property
    def run(self) -> Path:
        """Sockets; elsewhere when the path would be longer than a unix socket's may be."""
        run = self.servers / "run"
        return run if len(str(run)) < SOCKET_PATH_LIMIT else Path("/tmp") / f"slipway-{os.getuid()}-{self._hash}"  # noqa: S108

    @property
    def supervisor_socket(self) -> Path:
        """Not beside the servers' sockets: their user must not reach the supervisor."""
        return (self.servers if self.is_root else self.run) / "supervisor.sock"

    def create(self) -> None:
        for folder in (self.path, self.logs, self.instances, self.gateway):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.is_root:
            # 0711: the servers' user must pass through, nobody needs to list it.
            Path("/var/lib/slipway").mkdir(exist_ok=True, mode=0o711)
        # Root's own: who could swap a file in it for a link could make root write elsewhere.
        self.servers.mkdir(parents=True, exist_ok=True, mode=0o711 if self.is_root else 0o700)
        self.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = self.run.lstat()
        if not stat.S_ISDIR(found.st_mode) or (not self.is_root and found.st_uid != os.getuid()):
            raise RuntimeError(
                f"{self.run} belongs to somebody else. Remove it, or set SLIPWAY_HOME to a shorter path."
            )
        self.give_to_servers(self.run)

    def give_to_servers(self, path: Path) -> None:
        """Hand a folder of ours to the unprivileged user that the servers run as."""
        if self.is_root:
            user = server_user()
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)

    def take_over_data(self) -> None:
        """Data of builds whose servers ran as another account. Only while no server runs."""
        if not self.is_root:
            return
        user = server_user()
        for name in ("postgres", "valkey", "valkey.conf", "scratch.conf", "run"):
            top = self.servers / name
            if not top.exists() or top.stat().st_uid == user.pw_uid:
                continue
            for folder, folders, files in os.walk(top):
                for item in (*folders, *files):
                    os.chown(os.path.join(folder, item), user.pw_uid, user.pw_gid, follow_symlinks=False)
            # Last: what was cut off before is done again.
            os.chown(top, user.pw_uid, user.pw_gid, follow_symlinks=False)

    @cached_property
    def secrets(self) -> dict[str, str]:
        """The embedded servers' passwords and the Valkeys' ports, made at the first start."""
        path = self.path / "secrets.json"
        stored = atomic_file.read_json(path)
        if stored is None:
            if path.exists():
                raise RuntimeError(f"{path} can't be read. Restore it from a backup: the database's password is in it.")
            stored = {
                "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
                "VALKEY_PASSWORD": secrets.token_urlsafe(24),
                "VALKEY_PORT": str(_free_port()),
            }
        if "SCRATCH_PORT" not in stored:
            stored |= {"SCRATCH_PORT": str(_free_port())}
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic_file.write_json(path, stored)
        return stored

    @property
    def keys_file(self) -> Path:
        return self.path / "keys.json"

    @property
    def was_started(self) -> bool:
        return (self.path / "secrets.json").exists()

    def forget_former_secret_key(self) -> None:
        """It is among the keys now. Kept here, it would come back whenever their file is missing."""
        former = self.former_secret_key
        if former:
            path = self.path / "secrets.json"
            stored = atomic_file.read_json(path) or {}
            stored.pop("SECRET_KEY")
            # By which the servers' data is known as this home's.
            atomic_file.write_json(path, stored | {"FORMER_MARK": hashlib.sha256(former.encode()).hexdigest()})

    @property
    def former_secret_key(self) -> str:
        """Of builds that had one key for everything; "" where none was."""
        stored = atomic_file.read_json(self.path / "secrets.json")
        return str(stored.get("SECRET_KEY", "")) if isinstance(stored, dict) else ""

    @property
    def database_url(self) -> str:
        """As the application's own role, which owns its tables and may do nothing beyond."""
        return f"postgresql://{DATABASE_ROLE}:{self.role_password}@/slipway?host={self.run}"

    @property
    def superuser_url(self) -> str:
        return f"postgresql://slipway:{self.secrets['POSTGRES_PASSWORD']}@/slipway?host={self.run}"

    @property
    def role_password(self) -> str:
        """Made from the superuser's, which it doesn't give away."""
        return hashlib.sha256(f"{DATABASE_ROLE}:{self.secrets['POSTGRES_PASSWORD']}".encode()).hexdigest()

    @property
    def redis_url(self) -> str:
        return f"redis://:{self.secrets['VALKEY_PASSWORD']}@127.0.0.1:{self.secrets['VALKEY_PORT']}/0"

    @property
    def scratch_redis_url(self) -> str:
        """For what is large and may go (common/stores.py)."""
        return f"redis://:{self.secrets['VALKEY_PASSWORD']}@127.0.0.1:{self.secrets['SCRATCH_PORT']}/0"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
