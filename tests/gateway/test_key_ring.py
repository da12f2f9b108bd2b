"""Keys in a gateway's memory and on its disk: what was acknowledged survives, what was revoked stays so."""

import hashlib

import pytest

from gateway.access.key_ring import LONG, KeyRing


def row(
    key_id: int, secret: str, *, previous: str | None = None, until: float | None = None, live: bool = True, **changes
):
    values = {"user": 20, "organization": 3, "expires": None, "operator": False, "organizations": [3], "deployments": None, "mark": key_id * 7}  # fmt: skip
    values |= changes
    return [
        key_id, values["user"], values["organization"], digest(secret).hex(), values["expires"],
        digest(previous).hex() if previous else None, until, values["operator"], values["organizations"],
        values["deployments"], live, values["mark"],
    ]  # fmt: skip


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


@pytest.fixture
def ring(tmp_path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


def again(ring: KeyRing) -> KeyRing:
    """The ring as the next start finds it."""
    fresh = KeyRing(ring._path)
    fresh.load()
    return fresh


def known(ring: KeyRing) -> set[int]:
    return {caller.key_id for caller in ring.callers.values()}


def test_changes_are_applied_and_survive_a_restart(ring):
    ring.replace([row(1, "a"), row(2, "b", deployments=[7])], 10)
    ring.apply([row(2, "b", live=False), row(3, "c", expires=99.5)], 11)
    for found in (ring, again(ring)):
        assert (known(found), found.version) == ({1, 3}, 11)
        assert found.callers[digest("c")].expires_at == 99.5
        assert digest("b") not in found.callers
        assert found.fingerprint == (2, 7 ^ 21)


def test_a_rotated_key_has_two_secrets_and_forgets_the_oldest(ring):
    ring.replace([row(1, "first")], 1)
    ring.apply([row(1, "second", previous="first", until=50.0)], 2)
    assert ring.callers[digest("second")].expires_at == float("inf")
    assert ring.callers[digest("first")].expires_at == 50.0
    ring.apply([row(1, "third", previous="second", until=60.0)], 3)
    for found in (ring, again(ring)):
        assert set(found.callers) == {digest("third"), digest("second")}
    ring.apply([row(1, "third", live=False)], 4)
    assert ring.callers == {} and again(ring).callers == {}


def test_a_whole_reading_forgets_what_is_not_in_it(ring):
    callers = ring.callers
    ring.replace([row(1, "a"), row(2, "b")], 1)
    ring.replace([row(2, "b")], 2)
    assert known(ring) == known(again(ring)) == {2}
    assert ring.callers is callers, "the loop goes on with the same dictionary"


def test_a_torn_last_line_costs_only_itself_and_is_never_appended_to(ring):
    ring.replace([row(1, "a"), row(2, "b")], 1)
    ring.apply([row(1, "a", live=False)], 2)
    with ring._path.open("ab") as file:
        file.write(b"[3,20,3")
    torn = again(ring)
    assert known(torn) == {2} and torn.has_grown_long
    torn.replace([row(2, "b")], 3)
    assert not torn.has_grown_long and known(again(torn)) == {2}


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_a_tear_that_looks_whole_is_seen(ring, cut):
    ring.replace([row(1, "a"), row(2, "b")], 1234)
    ring._path.write_bytes(ring._path.read_bytes()[:-cut])
    assert again(ring).has_grown_long


def test_a_full_disk_revokes_in_memory_and_the_file_is_written_anew(ring, monkeypatch):
    ring.replace([row(1, "a"), row(2, "b")], 1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        with pytest.raises(OSError):
            ring.apply([row(1, "a", live=False)], 2)
    assert known(ring) == {2} and ring.version == 1, "refused at once, and not acknowledged"
    assert ring.has_grown_long
    ring.replace([row(2, "b")], 3)
    assert known(again(ring)) == {2}


def test_a_file_that_has_grown_long_is_written_anew(ring):
    ring.replace([row(1, "a")], 1)
    ring.apply([row(1, "a", mark=number) for number in range(LONG + 2)], 2)
    assert ring.has_grown_long
    ring.replace([row(1, "a")], 3)
    assert len(ring._path.read_bytes().splitlines()) == 2


def test_callers_of_one_user_share_their_organizations(ring):
    ring.replace([row(number, str(number), organizations=[3, 4]) for number in range(100)], 1)
    assert len({id(caller.organizations) for caller in ring.callers.values()}) == 1
