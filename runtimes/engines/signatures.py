"""An engine's last words and what they mean. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runtimes.cause import Cause

REMEDIES = {
    "context_too_long": "Start a version with this context length.",
    "gpu_out_of_memory": "Ask for more GPUs, a shorter context, or a smaller model.",
    "gated_model": "Ask for access at Hugging Face and store a token with the model.",
    "model_unknown": "Correct the model's address, or store a token with the model.",
    "bad_argument": "Correct it in a new version.",
    "registry_refused": "Store a valid key with the model.",
}


# How an engine says that its reason stands further up.
_POINTS_ABOVE = "See root cause above"
_EXCEPTION = re.compile(r"\b((?:\w{1,80}\.){0,8}\w{0,80}(?:Error|Exception): .{1,2000})")


@dataclass(frozen=True)
class Signature:
    """Words that tell a cause; their first group is put into `message`.

    `field` is the form's field that mends it; where it is `context_length` the group is the value that would.
    """

    pattern: re.Pattern[str]
    code: str
    message: str
    field: str = ""

    def cause(self, line: str) -> Cause | None:
        found = self.pattern.search(line)
        if found is None:
            return None
        value = found[1] if self.field == "context_length" else ""
        return Cause(
            self.code, self.message.format(found[1]), REMEDIES[self.code], (line,), field=self.field, value=value
        )


# What every program says that fetches its model from Hugging Face.
HUGGING_FACE = (
    # First: of what it doesn't know it says 401 too, to those who show no token.
    Signature(
        re.compile(r"(RepositoryNotFoundError|is not a local folder and is not a valid model identifier)"),
        "model_unknown",
        "Hugging Face knows no such model, or it is private and the token may not read it ({0}).",
        "model",
    ),
    Signature(
        re.compile(r"(GatedRepoError|Cannot access gated repo|40[13] Client Error|401 Unauthorized|403 Forbidden)"),
        "gated_model",
        "Hugging Face doesn't hand the model out without a token that may read it ({0}).",
    ),
)
GPU_MEMORY = Signature(
    re.compile(r"(CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY)"),
    "gpu_out_of_memory",
    "The GPU's memory is too small for model and context, or something else uses it: {0}.",
)


def diagnose(log_tail: Sequence[str], signatures: Iterable[Signature]) -> Cause | None:
    """The cause that the last telling line names; None when none tells anything."""
    known = tuple(signatures)
    for line in reversed(log_tail):
        for signature in known:
            cause = signature.cause(line)
            if cause is not None:
                return cause
    return None


def root_cause(log_tail: Sequence[str]) -> Cause | None:
    """The error that a process's last words point back to: its traceback stands above that of who started the process."""
    pointing = next((index for index, line in enumerate(log_tail) if _POINTS_ABOVE in line), None)
    if pointing is None:
        return None
    for index in range(pointing - 1, -1, -1):
        found = _EXCEPTION.search(log_tail[index])
        if found is not None and _POINTS_ABOVE not in log_tail[index]:
            return Cause(
                "crashed",
                f"The engine ended with {found[1][:300]}",
                "Mend what it names in a new version; its own words are below, the log has the rest.",
                tuple(log_tail[max(0, index - 5) : index + 1]),
                retryable=True,
            )
    return None


def unknown_argument(pattern: str, program: str) -> Signature:
    """`pattern`'s group is the argument that the program refused."""
    return Signature(
        re.compile(pattern), "bad_argument", f"{program} doesn't know the argument {{0}}.", "extra_arguments"
    )
