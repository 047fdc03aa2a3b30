"""Which failures of a request are worth another attempt, when, and how they are told.

Every backend of fsspec raises errors of its own, so what is not known to be permanent counts as
transient: the number of attempts is bounded, and a wrong guess costs seconds. Waiting times have
no random part; the ranks of a run are spread by their work anyway.
"""

from __future__ import annotations

import errno
import re

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0
PERMANENT_ERRNO = frozenset(
    (errno.EINVAL, errno.ENOSYS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOSPC)
)
# Named, not imported: botocore is there only where s3fs is.
PERMANENT_NAMES = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
COPY_AGAIN = "copy the store there again with 'stunet data copy'"
RETRIED_STATUS = (408, 425, 429)  # client errors by number, but they pass

QUERY = re.compile(r"\?[^\s'\")<>]*")  # signatures of presigned URLs
USER = re.compile(r"://[^/@\s]+@")


def wait_s(attempt: int) -> float:
    """Seconds to wait after attempt number `attempt`, counted from 0: 0.1, 0.2, 0.4, ... 10."""
    return float(min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S))


def is_permanent(error: BaseException) -> bool:
    """Whether the same request would fail again: absent, forbidden, or malformed."""
    if isinstance(error, FileNotFoundError | PermissionError | NotImplementedError):
        return True
    if type(error).__name__ in PERMANENT_NAMES:
        return True
    if isinstance(error, OSError) and error.errno in PERMANENT_ERRNO:
        return True
    status = getattr(error, "status", None)  # aiohttp's ClientResponseError
    return isinstance(status, int) and 400 <= status < 500 and status not in RETRIED_STATUS


def remedy(error: BaseException) -> str:
    """The next action after a permanent failure or the last attempt."""
    status = getattr(error, "status", None)
    if isinstance(error, PermissionError) or status in (401, 403):
        return "check the credentials and what they may read"
    if type(error).__name__ in PERMANENT_NAMES:
        return "set AWS_PROFILE or AWS_ACCESS_KEY_ID, or FSSPEC_S3='{\"anon\": true}' if public"
    if isinstance(error, FileNotFoundError):
        return "check the URL; 'stunet data copy' completes a store that is there in part"
    if is_permanent(error):
        return "check the URL and what is stored there"
    return "check the network and the endpoint, or raise remote.retries or remote.timeout_s"


def reason(error: BaseException) -> str:
    """What went wrong, on one line and without secrets."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    if isinstance(error, FileNotFoundError):
        return "not found"
    text = " ".join(str(error).split())
    return without_secrets(text or type(error).__name__)


def without_secrets(text: str) -> str:
    """`text` without user names, passwords and query strings of the URLs in it.

    >>> without_secrets("https://me:secret@host/a.bin?X-Amz-Signature=123 failed")
    'https://host/a.bin failed'
    """
    return USER.sub("://", QUERY.sub("", text))
