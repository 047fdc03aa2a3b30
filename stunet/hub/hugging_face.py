"""Bundles on the Hugging Face Hub. Transport, cache, tokens and revisions are its own client's.

Where this differs from a plain download: a file enters the client's cache only with the checksum
that the bundle says, and a killed download goes on where it was. The client throws a part away.
`HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to the client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers

from stunet.bundle import SUMS, parse_sums, sha256_of_file
from stunet.errors import BundleError, StunetError
from stunet.hub.place import HubPlace
from stunet.hub.resume import complete
from stunet.io.retry import reason

MAIN = "main"
BLOBS = "blobs"  # in the client's cache of a repository, beside its snapshots
WEIGHT_FILES = "model*.safetensors*"


def fetch_from_hub(place: HubPlace) -> Path:
    """Return the client's cached copy of a bundle, complete; offline what was fetched before.

    Raises:
        BundleError: There is no such bundle, it cannot be reached, or a file of it has another
            checksum than it says.
    """
    with _told(f"bundle {place}"):
        listing = Path(hf_hub_download(place.repository, SUMS, revision=place.revision))
        for name, digest in parse_sums(listing.read_text(errors="replace"), str(place)).items():
            if not (listing.parent / name).exists():
                _fetch_file(place, listing.parent, name, digest)
    return listing.parent


def _fetch_file(place: HubPlace, snapshot: Path, name: str, digest: str) -> None:
    commit = snapshot.name
    url = hf_hub_url(place.repository, name, revision=commit)
    found = get_hf_file_metadata(url)
    if not found.etag or Path(found.etag).name != found.etag:
        raise BundleError(f"bundle {place}: {name} comes with no usable ETag; check HF_ENDPOINT")

    def append(file: BinaryIO) -> None:
        headers = build_hf_headers()
        http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=found.size)

    blob = snapshot.parents[1] / BLOBS / found.etag
    if blob.exists() and sha256_of_file(blob) != digest:
        blob.unlink()  # by another program; nothing that we put there is wrong
    complete(blob, digest, f"bundle {place}: {name}", append)
    hf_hub_download(place.repository, name, revision=commit)  # finds it and links it


def send_to_hub(folder: Path, place: HubPlace, private: bool) -> str:
    """Make one commit of a bundle and return its address with the commit as revision.

    Weights that arrived in an interrupted call are not sent again; until the commit, the last
    thing, nothing changes for others. The same bundle again makes no commit.

    Args:
        folder: The bundle.
        place: Repository, made where absent; the revision is a branch, made where absent.
        private: Make a new repository private.

    Raises:
        BundleError: It cannot be reached or written, or what is there then is not what was sent.
    """
    names = (*parse_sums((folder / SUMS).read_text(), folder), SUMS)
    branch = place.revision or MAIN
    api = HfApi()
    with _told(f"publish {place}"):
        api.create_repo(place.repository, private=private, exist_ok=True)
        if branch != MAIN:
            api.create_branch(place.repository, branch=branch, exist_ok=True)
        old = api.list_repo_files(place.repository, revision=branch)
        commit = api.create_commit(
            place.repository,
            [
                *(CommitOperationAdd(name, folder / name) for name in names),
                *(
                    CommitOperationDelete(name)
                    for name in old
                    if fnmatch(name, WEIGHT_FILES) and name not in names
                ),
            ],
            commit_message=f"Bundle {sha256_of_file(folder / SUMS)[:12]}",
            revision=branch,
        )
        entries = api.get_paths_info(place.repository, list(names), revision=commit.oid)
        arrived = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    for name in names:
        if name not in arrived or not _is(arrived[name], folder / name):
            raise BundleError(
                f"publish {place}: {name} did not arrive as it was sent; run the same command again"
            )
    return str(HubPlace(place.repository, commit.oid))


def _is(entry: RepoFile, path: Path) -> bool:
    if entry.lfs is not None:
        return entry.lfs.sha256 == sha256_of_file(path)
    data = path.read_bytes()  # small: the Hub keeps large files apart
    return entry.blob_id == hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what the client raises into one line with the next action."""
    try:
        yield
    except StunetError:
        raise
    except Exception as error:  # the client's, its HTTP library's, the system's: no common base
        raise BundleError(f"{what}: {_first_sentence(error)}; {_remedy(error)}") from error


def _first_sentence(error: BaseException) -> str:
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or not for you"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return "is not all in the cache and the Hub is out of reach"
    if isinstance(error, EntryNotFoundError):
        return f"is no bundle: it has no {SUMS}"
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # the client says which file, its cause says why
    return reason(error)[:300]


def _remedy(error: BaseException) -> str:
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return "check the network, HF_HUB_OFFLINE and HF_ENDPOINT"
    if isinstance(error, EntryNotFoundError | RevisionNotFoundError):
        return "check name and revision"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return "check the name; run 'hf auth login' or set HF_TOKEN"
    return "the same command continues"
