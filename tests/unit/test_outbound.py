"""Which addresses may be called on behalf of users."""

import ipaddress

import pytest

from common.addresses import is_allowed


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True), ("::ffff:8.8.8.8", True),
        ("127.0.0.1", False), ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("240.0.0.1", False), ("192.0.2.1", False),
        ("::", False), ("::1", False), ("fe80::1", False), ("fc00::1", False), ("fec0::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::7f00:1", False), ("64:ff9b:1:7f00:0:100:808:808", False),
        ("2002:7f00:1::", False), ("2001:db8::1", False), ("192.0.0.192", False), ("168.63.129.16", False),
        ("::ffff:168.63.129.16", False), ("168.63.129.17", True),
    ],
)  # fmt: skip
def test_only_public_addresses_are_called(address, allowed):
    assert is_allowed(ipaddress.ip_address(address), ()) is allowed


def test_networks_that_are_allowed_are_called_and_nothing_public_in_plain_text():
    inside = [ipaddress.ip_network("10.1.0.0/16")]
    assert is_allowed(ipaddress.ip_address("10.1.2.3"), inside)
    assert is_allowed(ipaddress.ip_address("::ffff:10.1.2.3"), inside)
    assert not is_allowed(ipaddress.ip_address("10.2.0.1"), inside)
    assert not is_allowed(ipaddress.ip_address("8.8.8.8"), inside, public=False)
