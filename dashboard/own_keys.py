"""Where the installation's keys come from: a file that processes follow, or the environment."""

import secrets
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

from common import atomic_file
from common.installation_keys import PURPOSES, FixedKeys, InstallationKeys, KeysFile, KeysUnreadableError
from dashboard.home import Home

# Each a list with commas, newest first; where one is absent, SECRET_KEY and its fallbacks serve that purpose too.
VARIABLES = {
    "links": "SLIPWAY_LINK_KEYS",
    "identity": "SLIPWAY_IDENTITY_KEYS",
    "webhooks": "SLIPWAY_WEBHOOK_KEYS",
    "encryption": "SLIPWAY_ENCRYPTION_KEYS",
}


def own_keys(env: environ.Env, home: Home) -> InstallationKeys:
    """Raises ImproperlyConfigured, with the remedy, where there are none and none may be made."""
    path, secret_key = env.str("SLIPWAY_KEYS_FILE", default=""), env.str("SECRET_KEY", default="").strip()
    try:
        if path:
            return KeysFile(Path(path))
        if secret_key:
            return _of_environment(env, secret_key)
        if stray := [name for name in VARIABLES.values() if env.str(name, default="")]:
            raise ImproperlyConfigured(f"{stray[0]} is set without SECRET_KEY. Set both, or SLIPWAY_KEYS_FILE.")
        if not home.keys_file.exists():
            _begin(env, home)
        home.forget_former_secret_key()
        return KeysFile(home.keys_file)
    except KeysUnreadableError as error:
        raise ImproperlyConfigured(
            f"{error} Restore it from a backup: stored secrets are encrypted with them."
        ) from None


def new_key() -> str:
    return secrets.token_urlsafe(48)


def save(path: Path, keys: FixedKeys) -> None:
    # A link leads to what other machines may read, too.
    atomic_file.write_json(path.resolve(), keys.to_json())


def _of_environment(env: environ.Env, secret_key: str) -> FixedKeys:
    common = (secret_key, *env.list("SECRET_KEY_FALLBACKS", default=[]))
    own = {purpose: tuple(env.list(name, default=[])) or common for purpose, name in VARIABLES.items()}
    return FixedKeys(sessions=common, **own)


def _begin(env: environ.Env, home: Home) -> None:
    """The first start of this home, or the first with a build that has a file of keys."""
    if home.former_secret_key:
        _take_over(home)
        return
    if home.was_started:
        raise ImproperlyConfigured(
            f"{home.keys_file} is missing. Restore it from a backup: stored secrets are encrypted with its keys, and new ones "
            "could read none of them."
        )
    if env.str("DATABASE_URL", default=""):
        # Each machine would make its own, and none could read what another one stored.
        raise ImproperlyConfigured(
            "DATABASE_URL is set, but no keys are. Set SECRET_KEY, or SLIPWAY_KEYS_FILE to a file with a key for each "
            "purpose, the same on all machines (docs/security.md)."
        )
    home.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    save(home.keys_file, FixedKeys(**{purpose: (new_key(),) for purpose in PURPOSES}))


def _take_over(home: Home) -> None:
    """Earlier builds had one key for everything: what it signed and encrypted stays good, and receivers know webhooks by it."""
    former = home.former_secret_key
    new = {purpose: (new_key(), former) for purpose in ("links", "identity", "encryption")}
    save(home.keys_file, FixedKeys(sessions=(former,), webhooks=(former,), **new))
