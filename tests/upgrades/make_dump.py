"""Makes a database as an earlier build leaves it: `python -m tests.upgrades.make_dump COMMIT` writes COMMIT.sql.zst here.

The commit is cloned into a folder of its own and fills a PostgreSQL of its own, by its own migrations and services (populate.py).
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import zstandard

from dashboard.embedded_servers import POSTGRES_PACKAGE, POSTGRES_RELEASE, _package_folder

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
# The one that all its secrets are encrypted and signed with.
SECRET_KEY = "the-key-of-an-earlier-build"


def program(name: str) -> str:
    return str(_package_folder(POSTGRES_PACKAGE) / POSTGRES_RELEASE / "bin" / name)


def main() -> None:
    commit = sys.argv[1]
    # In this process, for it reads the environment: starts PostgreSQL and Valkey, and ends them with it.
    from dashboard.home import Home
    from tests import embedded_servers  # noqa: F401 (starts them)

    home = Home()
    url = home.database_url.replace("/slipway?", "/earlier?")
    subprocess.run(
        [program("psql"), home.database_url.replace("/slipway?", "/postgres?"), "-c", "CREATE DATABASE earlier"],
        check=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(clone)], check=True)
        subprocess.run(["git", "-C", str(clone), "checkout", "--quiet", commit], check=True)
        environment = os.environ | {
            "DATABASE_URL": url, "REDIS_URL": home.redis_url, "SECRET_KEY": SECRET_KEY, "SLIPWAY_HOME": f"{folder}/home",
        }  # fmt: skip
        run = [sys.executable, "-W", "ignore", "manage.py"]
        subprocess.run([*run, "migrate", "--verbosity", "0"], cwd=clone, env=environment, check=True)
        subprocess.run(
            [*run, "shell", "-c", (HERE / "populate.py").read_text()], cwd=clone, env=environment, check=True
        )
    dumped = subprocess.run([program("pg_dump"), "--no-owner", "--no-privileges", url], check=True, capture_output=True)
    target = HERE / f"{commit}.sql.zst"
    target.write_bytes(zstandard.compress(dumped.stdout, 19))
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
