"""From any place to a local folder: what `stunet.load` and the verbs do with a bundle's address."""

from __future__ import annotations

from pathlib import Path

from stunet.hub.place import HubPlace, is_hub
from stunet.io.remote import StoreOptions, is_url


def fetch(place: str | Path, options: StoreOptions | None = None) -> Path:
    """Return the folder of a bundle, fetched and cached if it is not on this machine.

    Fetched files have the checksums that the bundle says; reading it verifies them once more.

    Args:
        place: A folder, `hf://user/name`, `hf://user/name@revision`, or another URL.
        options: Retries, timeouts and cache for other URLs than the Hub's.

    Raises:
        BundleError: There is no bundle, or it is not what it says.
        DataError: A URL cannot be reached.
    """
    if is_hub(place):
        from stunet.hub.hugging_face import fetch_from_hub

        return fetch_from_hub(HubPlace.parse(str(place)))
    if is_url(place):
        from stunet.hub.url import fetch_from_url

        return fetch_from_url(str(place), options or StoreOptions())
    return Path(place)
