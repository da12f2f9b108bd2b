"""Text fields that hold several values: what they take, and that each error names its line."""

import pytest
from django.core.exceptions import ValidationError

from deployments.forms import key_values as kv


@pytest.mark.parametrize(
    ("text", "value"), [("512 MiB", 512 << 20), ("2Gi", 2 << 30), ("1.5 GB", 1_500_000_000), ("1gib", 1 << 30)]
)
def test_amounts(text, value):
    assert kv.parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "2", "lots", "-1 GiB", "1 PiB", "99999999 TiB", "1e9 GiB", "٣ GiB x"])
def test_amounts_that_are_none(text):
    with pytest.raises(ValidationError):
        kv.parse_bytes(text)


def test_variables():
    assert kv.parse_variables("A=1\n\nB = x=y \n") == {"A": "1", "B": "x=y"}


@pytest.mark.parametrize(
    ("text", "part"),
    [("A", "Line 1"), ("A=1\n1B=2", "Line 2"), ("A=1\nA=2", "twice"), ("PORT=1", "Slipway"), ("ä=1", "Line 1")],
)
def test_bad_variables_name_the_line(text, part):
    with pytest.raises(ValidationError, match=part):
        kv.parse_variables(text)


def test_labels_follow_kubernetes():
    assert kv.parse_labels("example.com/team=search\nx=") == {"example.com/team": "search", "x": ""}
    for bad in ("-x=1", "x=sp ace", f"{'a' * 64}=1", "x=ü"):
        with pytest.raises(ValidationError):
            kv.parse_labels(bad)


def test_tolerations_and_affinity():
    first, second = kv.parse_tolerations("gpu=true:NoSchedule\ndedicated:NoExecute")
    assert (first.operator, first.value, second.operator, second.effect) == ("Equal", "true", "Exists", "NoExecute")
    (rule,) = kv.parse_pod_affinity("away app=batch@zone")
    assert (rule.placement, rule.label, rule.value, rule.topology_key) == ("away", "app", "batch", "zone")
    for bad in ("gpu=true:Never", "near", "beside a=b"):
        with pytest.raises(ValidationError):
            (kv.parse_pod_affinity if " " in bad or bad == "near" else kv.parse_tolerations)(bad)


def test_arguments_split_like_a_shell():
    assert kv.parse_arguments("--a 'b c' --d=\"e\"") == ("--a", "b c", "--d=e")
    with pytest.raises(ValidationError, match="quotes"):
        kv.parse_arguments("--a 'b")
