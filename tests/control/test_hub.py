"""The Developer Hub: what a caller finds of a model, who finds what, samples that run, and on whose account tests go."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.urls import reverse

from accounts.models import Member, Organization, User
from accounts.services import add_member, create_organization
from deployments.clients import CLIENTS
from deployments.models import Deployment, Model
from deployments.samples import samples, speaks_chat
from deployments.selectors import calling_organization_id
from deployments.services.access import set_access
from deployments.services.limits import set_limits
from runtimes.engines.base import Example, openai_examples
from tests.conftest import sign_in, simulator

pytestmark = pytest.mark.django_db(transaction=True)
PATH = ["acme", "chat"]
CHAT = openai_examples("acme/chat", embeddings=False)


@pytest.fixture
def deployment(deploy) -> Deployment:
    return deploy()


@pytest.fixture
def friend(people) -> User:
    friends = create_organization("friends", "Friends")
    user = User.objects.create(username="friend")
    add_member(friends, user, Member.Role.MEMBER)
    return user


def test_from_models_to_a_deployment(client, people, deployment):
    set_limits(deployment, {"key": (60, 90_000)}, actor=people.admin)
    client.force_login(people.member)
    models = client.get(reverse("hub:models")).content.decode()
    assert "A model" in models and "acme/chat" in models
    model = client.get(reverse("hub:model", args=[deployment.model_id])).content.decode()
    assert reverse("hub:deployment", args=PATH) in model
    page = client.get(reverse("hub:deployment", args=PATH)).content.decode()
    for told in (
        "/main/chat/",
        "export API_KEY=",
        "from openai import OpenAI",
        "90,000",
        "4,096 tokens",
        "simulator",
        "Free of charge",
    ):
        assert told in page, told
    assert reverse("hub:testing", args=PATH) in page and 'id="playground"' in page
    assert "Chat, streamed" in client.get(reverse("hub:testing", args=PATH)).content.decode()


def test_client_libraries_are_shown_with_what_reaches_this_deployment(client, people, deployment):
    client.force_login(people.member)
    page = client.get(reverse("hub:deployment", args=["acme", "chat"])).content.decode()
    shown = page.partition('data-testid="clients"')[2]
    for client_library in CLIENTS:
        assert (client_library.package in shown) == (client_library.api == "openai"), "the simulator speaks no other"
    assert "acme/chat" in shown and "{model}" not in shown and "{url}" not in shown


def test_sharing_decides_who_finds_it(client, people, deployment, friend):
    pages = [reverse("hub:deployment", args=PATH), reverse("hub:testing", args=PATH), reverse("hub:header", args=PATH)]
    pages.append(reverse("hub:model", args=[deployment.model_id]))
    friends = Organization.objects.get(name="friends")
    for sharing, organizations, finds in (("none", [], False), ("specific", [friends], True), ("all", [], True)):
        set_access(deployment, "public", sharing, organizations, actor=people.admin)
        client.force_login(friend)
        assert ("acme/chat" in client.get(reverse("hub:models")).content.decode()) is finds
        for page in pages:
            answer = client.get(page)
            assert answer.status_code == (200 if finds else 404), (sharing, page)
        sent = client.post(reverse("hub:send-test", args=PATH), "{}", content_type="application/json")
        assert sent.status_code == (400 if finds else 404)
        assert client.get(reverse("deployments:detail", args=PATH)).status_code == 404, "the console stays the owner's"
        if finds:
            assert reverse("deployments:detail", args=PATH) not in client.get(pages[0]).content.decode()


def test_the_search_knows_nothing_of_deployments_that_one_may_not_call(client, people, deploy, friend):
    shared = deploy("open-to-friends")
    deploy("merger-bot")
    set_access(shared, "public", "all", [], actor=people.admin)
    client.force_login(friend)
    found = {
        word: "A model" in client.get(reverse("hub:models"), {"search": word}).content.decode()
        for word in ("open-to", "merger")
    }
    assert found == {"open-to": True, "merger": False}


def test_a_model_without_anything_to_call_is_not_there(client, people, place):
    client.force_login(people.member)
    assert "Nothing to call yet" in client.get(reverse("hub:models")).content.decode()
    assert client.get(reverse("hub:model", args=[place.model.pk])).status_code == 404


def test_many_models_come_page_by_page_with_a_fixed_number_of_queries(client, people, place, django_assert_max_num_queries):  # fmt: skip
    for number in range(120):
        model = Model.objects.create(organization=people.ours, name=f"Model {number:03}")
        Deployment.objects.create(organization=people.ours, model=model, endpoint=place.endpoint, name=f"d{number}")
    sign_in(client, people.member)
    seen, url = set(), reverse("hub:models")
    while url:
        with django_assert_max_num_queries(8):
            page = client.get(url).content.decode()
        seen |= set(re.findall(r"Model \d{3}", page))
        following = re.search(r'href="(\?after=[^"]+)"', page)
        url = reverse("hub:models") + following[1] if following else None
    assert len(seen) == 120
    assert "Model 007" in client.get(reverse("hub:models"), {"search": "del 007"}).content.decode()
    assert "Nothing matches" in client.get(reverse("hub:models"), {"search": "no such\0"}).content.decode()


def test_tests_from_the_browser_go_on_the_right_account(people, deployment, friend):
    friends = Organization.objects.get(name="friends")
    assert calling_organization_id(people.member, deployment) == people.ours.pk
    assert calling_organization_id(people.operator, deployment) == people.ours.pk
    set_access(deployment, "key_only", "specific", [friends], actor=people.admin)
    add_member(people.theirs, friend, Member.Role.MEMBER)
    deployment.refresh_from_db()
    assert calling_organization_id(friend, deployment) == friends.pk, "not another of the caller's"
    set_access(deployment, "key_only", "all", [], actor=people.admin)
    deployment.refresh_from_db()
    assert calling_organization_id(friend, deployment) in (friends.pk, people.theirs.pk)


class TestSamples:
    def texts(self, examples) -> dict[str, str]:
        made = samples(examples, gateway_url="http://gateway", api_id="acme/chat", address="http://gateway/main/chat")
        return {item.id: item.text for item in made}

    @pytest.mark.parametrize(
        "examples",
        [CHAT, [], [Example("Health", "GET", "/health")], [Example("Odd", "POST", "/it's", {"a": 'it\'s "q"'})]],
    )
    def test_they_are_valid_in_their_languages(self, examples, tmp_path):
        texts = self.texts(examples)
        assert subprocess.run(["bash", "-n"], input=texts["curl"], text=True).returncode == 0
        compile(texts["python"], "sample", "exec")
        script = tmp_path / "sample.mjs"
        script.write_text(texts["javascript"])
        checked = subprocess.run([_node(), "--check", script], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr

    def test_chats_go_to_the_gateway_with_the_api_id_and_others_to_their_own_address(self):
        assert speaks_chat(CHAT) and not speaks_chat([])
        for text in self.texts(CHAT).values():
            assert "http://gateway/v1" in text and "acme/chat" in text and "API_KEY" in text
        for text in self.texts([Example("Health", "GET", "/health")]).values():
            assert "http://gateway/main/chat/health" in text and "API_KEY" in text


def test_a_deployment_without_a_version_still_has_a_page(client, people, place):
    Deployment.objects.create(organization=people.ours, model=place.model, endpoint=place.endpoint, name="chat")
    client.force_login(people.member)
    page = client.get(reverse("hub:deployment", args=PATH))
    assert page.status_code == 200 and b"No version" in page.content and b"playground" not in page.content


def test_names_from_others_are_text(client, people, deploy):
    made = deploy(specification=simulator())
    Model.objects.filter(pk=made.model_id).update(name="<script>x</script>", description='"><img src=x>')
    client.force_login(people.member)
    for page in (
        reverse("hub:models"),
        reverse("hub:model", args=[made.model_id]),
        reverse("hub:deployment", args=PATH),
    ):
        content = client.get(page).content.decode()
        assert "<script>x" not in content and "<img src=x" not in content


def _node() -> str:
    """The one that fetched the browser's files: of the machine, or of the environment."""
    found = shutil.which("node", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found
    return found
