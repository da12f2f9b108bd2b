"""Names that people sign in with: whoever reads one must know who is meant."""

import re

from accounts.models import User

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")
# What looks alike in most typefaces.
# Single ones first: what is drawn with two of them may be written with any that looks like those.
_ALIKE = (
    ("0", "o"),
    ("1", "l"),
    ("i", "l"),
    ("j", "l"),
    ("5", "s"),
    ("2", "z"),
    ("8", "b"),
    ("rn", "m"),
    ("nn", "m"),
    ("vv", "w"),
    ("cl", "d"),
)


def username_error(name: str) -> str:
    """Why `name` can't be a new person's; empty where it can. Names of before stay as they are."""
    if not _NAME.fullmatch(name):
        return "A name has at most 63 Latin letters, digits, dots, hyphens, underscores and plus signs, and begins with a letter or digit."
    if User.objects.filter(username__iexact=name).exists():
        return "This name is taken. Choose another one."
    outline = _outline(name)
    operators = User.objects.filter(is_operator=True).values_list("username", flat=True)
    if any(_outline(operator) == outline for operator in operators):
        return "This name looks like an operator's. Choose another one."
    return ""


def _outline(name: str) -> str:
    """The same for names that people take for each other."""
    outline = re.sub(r"[._+-]", "", name.lower())
    for drawn, read in _ALIKE:
        outline = outline.replace(drawn, read)
    return outline
