"""Runs under an earlier build, by its own services: what a living installation has."""

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore

from accounts.models import ApiToken, Member, User
from accounts.services import add_member, create_api_token, create_operator, create_organization
from apikeys.services import create_key
from common.secret_token import digest_of
from deployments.models import Cluster, Deployment, Endpoint, Model
from deployments.services import catalog
from deployments.services.deployments import create_deployment
from monitoring.tasks import ensure_partitions
from runtimes.specification import Specification

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: planted-token}}]
"""

ensure_partitions()
operator = create_operator("admin", "a-long-enough-one-42")
acme = create_organization("acme", "Acme")
# Two users whose names differ by case alone were possible once.
for name in ("ada", "Ada", "ADA"):
    person = User.objects.create_user(username=name, password="a-long-enough-one-42")
    add_member(acme, person, Member.Role.MEMBER)
ada = User.objects.get(username="ada")
local = catalog.save_cluster(Cluster(name="this-machine"), actor=operator)
pods = catalog.save_cluster(
    Cluster(name="east", driver="kubernetes", namespace="models"), actor=operator, kubeconfig=KUBECONFIG
)
model = catalog.save_model(
    Model(organization=acme, name="gated", source="hugging_face", uri="org/name"),
    actor=operator,
    credential="planted-credential",
)
for cluster, place in ((local, "here"), (pods, "far")):
    endpoint = catalog.save_endpoint(Endpoint(organization=acme, name=place, cluster=cluster), actor=operator)
    made = Deployment(organization=acme, model=model, endpoint=endpoint, name=f"chat-{place}")
    specification = Specification(
        "simulator", f"acme/chat-{place}", image="an/image" if cluster == pods else "", cpu=0.5, memory=256 << 20,
        labels={"app": "anything"}, secret_environment={"TOKEN": "planted-value"},
    )  # fmt: skip
    create_deployment(made, specification, 2, actor=operator)
create_api_token(operator, "deploy script")
ApiToken.objects.update(digest=digest_of("slt_planted-token"))
create_key(ada, acme, "ada's key")
session = SessionStore()
session[SESSION_KEY] = str(operator.pk)
session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
session[HASH_SESSION_KEY] = operator.get_session_auth_hash()
session.create()
# Known to the test.
session.model.objects.update(session_key="planted-session")
