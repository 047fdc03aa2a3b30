from __future__ import annotations

import errno

import pytest
from aiohttp import ClientResponseError, RequestInfo, ServerDisconnectedError
from botocore.exceptions import NoCredentialsError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from stunet.io.retry import is_permanent, reason, remedy, wait_s, without_secrets


def http_error(status: int) -> ClientResponseError:
    url = URL("https://host/store/a?X-Amz-Signature=abc123")
    headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
    return ClientResponseError(RequestInfo(url, "GET", headers, url), (), status=status)


PERMANENT = (
    FileNotFoundError("key"),
    PermissionError("Forbidden"),
    OSError(errno.EINVAL, "Bad Request"),  # what s3fs makes of a 400
    NoCredentialsError(),
    http_error(400),
    http_error(403),
)
TRANSIENT = (
    TimeoutError(),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ServerDisconnectedError(),
    OSError(errno.EBUSY, "Please reduce your request rate."),  # s3fs: 503
    OSError(errno.EREMOTEIO, "We encountered an internal error."),  # s3fs: 500
    OSError("10 bytes came instead of 20"),
    http_error(429),
    http_error(502),
)


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_what_would_fail_again_is_permanent(error: Exception) -> None:
    assert is_permanent(error)
    assert "network" not in remedy(error)


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_what_may_pass_is_transient(error: Exception) -> None:
    assert not is_permanent(error)
    assert "network" in remedy(error)


def test_waits_double_up_to_ten_seconds() -> None:
    waits = [wait_s(attempt) for attempt in range(9)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert 22 < sum(waits[:8]) < 23  # what eight retries bridge


@pytest.mark.parametrize("error", [*PERMANENT, *TRANSIENT], ids=repr)
def test_reasons_are_one_line_without_signatures(error: Exception) -> None:
    assert reason(error)
    assert "\n" not in reason(error)
    assert "abc123" not in reason(error)


def test_secrets_are_cut_out_of_urls() -> None:
    text = "get https://key:s3cr3t@host/a?token=t0p (http://x/b?c=d), s3://bucket/key"
    assert without_secrets(text) == "get https://host/a (http://x/b), s3://bucket/key"
