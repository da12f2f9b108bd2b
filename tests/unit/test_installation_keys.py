"""The installation's keys: where they come from, and a file of them that changes under a running process."""

import json
import os

import environ
import pytest
from django.core.exceptions import ImproperlyConfigured

from common.installation_keys import LOOK_S, PURPOSES, FixedKeys, KeysFile, KeysUnreadableError
from dashboard.home import Home
from dashboard.own_keys import own_keys, save


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def environment(**values: str) -> environ.Env:
    env = environ.Env()
    env.ENVIRON = values
    return env


def test_a_file_is_followed_within_a_second(tmp_path, caplog):
    path, clock = tmp_path / "keys.json", Clock()
    save(path, FixedKeys.of("one"))
    keys = KeysFile(path, clock)
    save(path, FixedKeys.of("two", "one"))
    assert keys.encryption == ("one",)
    clock.now = LOOK_S
    assert keys.encryption == keys.sessions == keys.links == keys.identity == keys.webhooks == ("two", "one")
    path.write_text("{")
    clock.now = 2 * LOOK_S
    assert keys.encryption == ("two", "one") and "stay in force" in caplog.text
    path.unlink()
    clock.now = 3 * LOOK_S
    assert keys.encryption == ("two", "one")
    save(path, FixedKeys.of("three"))
    clock.now = 4 * LOOK_S
    assert keys.encryption == ("three",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"sessions": "a"}',
        json.dumps({purpose: [] for purpose in PURPOSES}),
        json.dumps({purpose: [" "] for purpose in PURPOSES}),
        json.dumps({purpose: ["a"] for purpose in PURPOSES[1:]}),
    ],
)
def test_a_bad_file_is_refused_at_the_start(tmp_path, text):
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(KeysUnreadableError, match=r"keys\.json"):
        KeysFile(tmp_path / "keys.json")
    with pytest.raises(ImproperlyConfigured, match="backup"):
        own_keys(environment(SLIPWAY_KEYS_FILE=str(tmp_path / "keys.json")), Home(tmp_path / "home"))


def test_the_first_start_makes_a_key_for_each_purpose(tmp_path):
    home = Home(tmp_path / "home")
    keys = own_keys(environment(), home)
    assert len({*keys.sessions, *keys.links, *keys.identity, *keys.webhooks, *keys.encryption}) == 5
    assert os.stat(home.keys_file).st_mode & 0o777 == 0o600
    assert own_keys(environment(), home).encryption == keys.encryption


def test_none_are_made_beside_a_database_of_ones_own(tmp_path):
    home = Home(tmp_path / "home")
    with pytest.raises(ImproperlyConfigured, match="Set SECRET_KEY, or SLIPWAY_KEYS_FILE"):
        own_keys(environment(DATABASE_URL="postgresql://db/slipway"), home)
    assert not home.path.exists()
    assert own_keys(environment(DATABASE_URL="postgresql://db/slipway", SECRET_KEY="a"), home).sessions == ("a",)
    save(tmp_path / "mounted.json", FixedKeys.of("b"))
    given = environment(DATABASE_URL="postgresql://db/slipway", SLIPWAY_KEYS_FILE=str(tmp_path / "mounted.json"))
    assert own_keys(given, home).sessions == ("b",)


def test_variables_give_each_purpose_keys_of_its_own(tmp_path):
    env = environment(SECRET_KEY="new", SECRET_KEY_FALLBACKS="old", SLIPWAY_ENCRYPTION_KEYS="e2,e1")
    keys = own_keys(env, Home(tmp_path))
    assert keys.encryption == ("e2", "e1")
    assert keys.sessions == keys.links == keys.webhooks == ("new", "old")
    with pytest.raises(ImproperlyConfigured, match="SLIPWAY_LINK_KEYS is set without SECRET_KEY"):
        own_keys(environment(SLIPWAY_LINK_KEYS="a"), Home(tmp_path))


def test_what_an_earlier_build_encrypted_stays_readable(tmp_path):
    """It had one key for everything, among the servers' passwords."""
    home = Home(tmp_path)
    (tmp_path / "secrets.json").write_text(json.dumps({"SECRET_KEY": "former", "POSTGRES_PASSWORD": "p"}))
    keys = own_keys(environment(), home)
    assert keys.sessions == keys.webhooks == ("former",)
    assert keys.encryption[1:] == keys.links[1:] == keys.identity[1:] == ("former",)
    assert own_keys(environment(), home).encryption == keys.encryption
    assert "SECRET_KEY" not in json.loads((tmp_path / "secrets.json").read_text()), (
        "dropped once, it must not come back"
    )
    home.keys_file.unlink()
    with pytest.raises(ImproperlyConfigured, match="backup"):
        own_keys(environment(), home)


def test_none_are_made_up_beside_data(tmp_path):
    """A file that is away for a moment must not end what all others hold in memory."""
    home = Home(tmp_path)
    own_keys(environment(), home)
    assert home.secrets["POSTGRES_PASSWORD"]
    home.keys_file.rename(tmp_path / "elsewhere")
    with pytest.raises(ImproperlyConfigured, match="Restore it from a backup"):
        own_keys(environment(), Home(tmp_path))
    assert not home.keys_file.exists()


def test_a_link_is_written_through(tmp_path):
    save(tmp_path / "real.json", FixedKeys.of("one"))
    (tmp_path / "keys.json").symlink_to(tmp_path / "real.json")
    save(tmp_path / "keys.json", FixedKeys.of("two"))
    assert (tmp_path / "keys.json").is_symlink() and KeysFile(tmp_path / "real.json").links == ("two",)
