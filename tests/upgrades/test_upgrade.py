"""A database as an earlier build left it, brought up to this one: nothing stored is lost, nobody is signed out, all runs on."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import zstandard
from django.conf import settings
from django.db import connection

from tests.upgrades.make_dump import HERE, PROJECT, SECRET_KEY, program

pytestmark = pytest.mark.django_db
DUMPS = sorted(HERE.glob("*.sql.zst"))


@pytest.fixture
def database() -> Iterator[str]:
    """The address of an empty database of its own."""
    values = connection.get_connection_params()
    name = f"upgrade_{os.getpid()}"
    server = f"postgresql://{values['user']}:{values['password']}@"
    where = f"?host={values['host']}"
    with psycopg.connect(f"{server}/postgres{where}", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield f"{server}/{name}{where}"
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def manage(database: str, tmp_path: Path, *arguments: str) -> str:
    environment = os.environ | {
        "DATABASE_URL": database, "REDIS_URL": settings.REDIS_URL, "SECRET_KEY": SECRET_KEY, "SLIPWAY_HOME": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "manage.py", *arguments],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("dump", DUMPS, ids=lambda path: path.name.partition(".")[0])
def test_what_was_there_is_there(dump: Path, database: str, tmp_path: Path):
    text = zstandard.ZstdDecompressor().decompress(dump.read_bytes(), max_output_size=64 << 20)
    restored = subprocess.run(
        [program("psql"), "-v", "ON_ERROR_STOP=1", "-q", database], input=text, capture_output=True, check=False
    )
    assert restored.returncode == 0, restored.stderr
    manage(database, tmp_path, "migrate", "--verbosity", "0")
    told = json.loads(
        manage(database, tmp_path, "shell", "-v", "0", "-c", (HERE / "look.py").read_text()).splitlines()[-1]
    )
    assert told["signed_in"] == told["token"] == 200
    assert told["secrets"] == ["planted-value", "planted-value"] and told["credential"] == "planted-credential"
    assert "planted-token" in told["kubeconfig"]
    # Their objects in clusters carry the names.
    assert told["versions"] == [["v1", "preparing", "running"], ["v2", "preparing", "running"]]
    assert len(told["users"]) == 4 and len({name.lower() for name in told["users"]}) == 4 and "ada" in told["users"]
    assert told["allowances"] == ["*"], "what was allowed stays so: it must be startable again"
    assert told["keys"] == 1
