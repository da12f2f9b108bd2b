"""The small modules: names, tokens, secrets, sketches, files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import atomic_file, identity_token
from common.encryption import Cipher, SecretUnreadableError
from common.identity_token import Identity
from common.naming import name_error, suggest_name
from dashboard.templatetags.console import bytes_text

WHO = Identity(1, 2, 3, "console")


@pytest.mark.parametrize("name", ["a", "chat-2", "0x", "a" * 63])
def test_good_names(name):
    assert name_error(name) is None


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "ü", "a b", "a" * 64, "a.b", "a\n"])
def test_bad_names_say_why(name):
    assert name_error(name)


@given(st.text(max_size=400))
def test_a_suggestion_is_a_good_name_or_empty(text):
    suggestion = suggest_name(text)
    assert suggestion == "" or name_error(suggestion) is None


def test_identity_token_round_trip_and_expiry():
    token = identity_token.mint(WHO, keys=["s"], now=100)
    assert identity_token.read(token, keys=["s"], now=159) == WHO
    assert identity_token.read(token, keys=["s"], now=161) is None
    assert identity_token.read(token, keys=["other"], now=100) is None


@given(st.text())
def test_forged_identity_tokens_are_refused(text):
    assert identity_token.read(text, keys=["s"], now=0) is None


def test_secrets_need_their_key():
    token = Cipher(["one"]).encrypt({"A": "secret"})
    assert "secret" not in token
    assert Cipher(["one"]).decrypt(token) == {"A": "secret"}
    with pytest.raises(SecretUnreadableError):
        Cipher(["two"]).decrypt(token)


def test_a_half_written_file_is_never_seen(tmp_path):
    path = tmp_path / "state.json"
    atomic_file.write_json(path, {"a": 1})
    (tmp_path / ".state.json.1.tmp").write_text('{"a":')
    assert atomic_file.read_json(path) == {"a": 1}
    path.write_text('{"a":')
    assert atomic_file.read_json(path) is None
    assert json.dumps(atomic_file.read_json(tmp_path / "absent")) == "null"


def test_large_sizes_have_their_unit():
    assert [bytes_text(size << 30) for size in (1, 999, 1024, 1536)] == ["1 GiB", "999 GiB", "1 TiB", "1.5 TiB"]
