from typing import Any

from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.db import migrations
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

_FORMER_SALT = "django.contrib.auth.models.AbstractBaseUser.get_session_auth_hash"


def rewrite(apps: Any, schema_editor: Any) -> None:
    """Whoever is signed in stays so: their sessions get the hash that no longer depends on SECRET_KEY."""
    users = dict(apps.get_model("accounts", "User").objects.values_list("pk", "password"))
    store = SessionStore()
    sessions = apps.get_model("sessions", "Session").objects.filter(expire_date__gt=timezone.now())
    for session in sessions.iterator(500):
        values = store.decode(session.session_data)
        password = users.get(int(values.get(SESSION_KEY) or 0))
        if password is None:
            continue
        former = salted_hmac(_FORMER_SALT, password, algorithm="sha256").hexdigest()
        if not constant_time_compare(values.get(HASH_SESSION_KEY, ""), former):
            continue
        new = salted_hmac("slipway.session", f"0:{password}", secret="session", algorithm="sha256").hexdigest()  # noqa: S106 (as User has it)
        session.session_data = store.encode(values | {HASH_SESSION_KEY: new})
        session.save(update_fields=["session_data"])


class Migration(migrations.Migration):
    dependencies = [("accounts", "0006_browser_sessions"), ("sessions", "0001_initial")]

    operations = [migrations.RunPython(rewrite, migrations.RunPython.noop)]
