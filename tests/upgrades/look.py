"""Runs under this build, after its migrations: says as JSON what became of what populate.py has made."""

import json

from django.conf import settings
from django.test import Client

from accounts.models import User
from apikeys.models import ApiKey
from common.encryption import Cipher
from deployments.models import Cluster, Model, Version
from deployments.services import tenancy

browser = Client(headers={"Host": "127.0.0.1"})
browser.cookies[settings.SESSION_COOKIE_NAME] = "planted-session"
script = Client(headers={"Host": "127.0.0.1", "Authorization": "Bearer slt_planted-token"})
admin = User.objects.get(username="ada")
versions = list(Version.objects.order_by("pk"))
pods = Cluster.objects.get(name="east")
for version in versions:
    tenancy.check_asked(version.deployment, version.specification, actor=admin)
print(
    json.dumps(
        {
            "signed_in": browser.get("/console/deployments/").status_code,
            "token": script.get("/api/v1/deployments/").status_code,
            "secrets": [item.specification_with_secrets().secret_environment["TOKEN"] for item in versions],
            "credential": Model.objects.get(name="gated").credential_token(),
            "kubeconfig": Cipher(settings.INSTALLATION_KEYS.encryption).decrypt(pods.encrypted_kubeconfig)[
                "kubeconfig"
            ],
            "versions": [[item.key, item.status, item.desired_state] for item in versions],
            "users": list(User.objects.values_list("username", flat=True)),
            "allowances": pods.allowances["labels"],
            "keys": ApiKey.objects.filter(revoked_at=None).count(),
        }
    )
)
