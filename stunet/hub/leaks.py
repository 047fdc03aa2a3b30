"""Keys and passwords in files that are about to be published. Finds forms, not meanings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}\b|\bhf_oauth_[\w.-]{20,}",
    "AWS access key": rb"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
    "AWS secret key": rb"(?i)aws_?secret[\w-]{0,20}[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{40}\b",
    "private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "Weights & Biases key": rb"\bwandb_v\d_\w{20,}|(?i:wandb[\w.-]{0,20}key)[\"']?\s*[:=]\s*[\"']?"
    rb"[0-9a-f]{40}\b",
    "GitHub token": rb"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{22,}",
    "GitLab token": rb"\bglpat-[\w-]{20,}",
    "Google API key": rb"\bAIza[\w-]{35}\b",
    "Slack token": rb"\bxox[abprs]-[\w-]{10,}",
    "API key": rb"\bsk-(?:[a-z]+-)*[A-Za-z0-9_]{20,}",
    "password in a URL": rb"://[^/\s:@\"']+:[^/\s@\"']+@",
    "signed URL": rb"[?&](?:X-Amz-Signature|X-Goog-Signature|sig)=[\w%/+-]{16,}",
    "password or token": rb"(?i)[\"']?\b(?:\w+_)?(?:password|passwd|secret|api_?key|access_token|"
    rb"auth_token)[\"']?\s*[:=]\s*[\"'][^\"'\s]{8,}[\"']",
}
SAFETENSORS_HEAD = 8  # bytes that tell how long the header is; numbers follow it
LONGEST_HEADER = 100 << 20


@dataclass(frozen=True)
class Leak:
    """A place that looks like a secret, without the secret."""

    file: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.file} line {self.line} ({self.kind})"


def find_leaks(folder: Path) -> list[Leak]:
    """Look through all files of a folder; of weights through what is not numbers.

    The numbers themselves are read as tensors of known names and shapes elsewhere.
    """
    return [leak for path in sorted(folder.iterdir()) for leak in _in_file(path)]


def _in_file(path: Path) -> Iterator[Leak]:
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            size = int.from_bytes(file.read(SAFETENSORS_HEAD), "little")
            data = file.read(min(size, LONGEST_HEADER))
        else:
            data = file.read()
    for kind, form in KINDS.items():
        for found in re.finditer(form, data):
            yield Leak(path.name, data.count(b"\n", 0, found.start()) + 1, kind)
