"""Every kind of secret is found where it stands; what only looks a little like one is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stunet.hub.leaks import KINDS, find_leaks

SECRETS = {
    "Hugging Face token": "hf_" + "a1B2c3D4e5" * 3 + "f6G7",
    "AWS access key": "AKIAIOSFODNN7EXAMPLE",
    "AWS secret key": "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "Weights & Biases key": "WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567",
    "GitHub token": "ghp_" + "a1B2c3D4e5f6" * 3,
    "GitLab token": "glpat-" + "a1B2c3D4e5" * 2,
    "Google API key": "AIza" + "a1B2c" * 7,
    "Slack token": "xoxb-1234567890-abcdef",
    "API key": "sk-proj-" + "a1B2c3D4" * 4,
    "password in a URL": "store=s3://me:hunter22@host/x",
    "signed URL": "https://b.s3/x?X-Amz-Signature=0123456789abcdef0123",
    "password or token": '"db_password": "correct horse"'.replace(" horse", "-horse"),
}
HARMLESS = {
    "commit": "0123456789abcdef" * 2 + "01234567",
    "sha256": "ab" * 32,
    "url": "https://github.com/ward/toy.git",
    "token_count": 12,
    "secret": None,
    "hf": "hf_token_of_yours",
    "store": "s3://bucket/path@v1",
    "spacing": "3.0 x 1.5 x 1.5",
}


def test_every_kind_has_an_example() -> None:
    assert SECRETS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", SECRETS)
def test_found_with_its_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(HARMLESS, indent=1))
    (tmp_path / "b.md").write_text(f"# title\n\n{SECRETS[kind]}\n")
    leaks = find_leaks(tmp_path)
    assert kind in {leak.kind for leak in leaks}
    assert {(leak.file, leak.line) for leak in leaks} == {("b.md", 3)}
    assert SECRETS[kind] not in "".join(map(str, leaks))


def test_weights_are_read_up_to_their_numbers(tmp_path: Path) -> None:
    numbers = torch.frombuffer(bytearray(SECRETS["AWS access key"].encode()), dtype=torch.uint8)
    save_file({"a": numbers}, tmp_path / "model.safetensors")
    assert find_leaks(tmp_path) == []
    secret = {"note": SECRETS["Hugging Face token"]}
    save_file({"a": numbers}, tmp_path / "model.safetensors", metadata=secret)
    assert [leak.kind for leak in find_leaks(tmp_path)] == ["Hugging Face token"]
