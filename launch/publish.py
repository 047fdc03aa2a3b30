"""The verb `publish`: a verified bundle appears whole in another folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from stunet.bundle import SUMS, read_bundle
from stunet.errors import BundleError
from stunet.io.atomic import publish_folder, temporary_sibling


def publish(bundle: Path, destination: Path) -> Path:
    """Copy the files of a bundle, and nothing else that lies beside them, and verify the copy.

    Args:
        bundle: Every checksum of it is verified first.
        destination: A folder to make; the same bundle may be there already.

    Raises:
        BundleError: The bundle is damaged, another one is at the destination, or the copy fails.
    """
    source = read_bundle(bundle)
    if destination.exists():
        if read_bundle(destination).sha256 != source.sha256:
            raise BundleError(f"publish {destination}: another bundle is there; name a new folder")
        return destination
    lines = (bundle / SUMS).read_text().splitlines()
    names = [SUMS, *(line.partition("  ")[2] for line in lines)]
    temporary = temporary_sibling(destination)
    try:
        temporary.mkdir(parents=True)
        for name in names:
            shutil.copyfile(bundle / name, temporary / name)
        read_bundle(temporary)
        publish_folder(temporary, destination)
    except OSError as error:
        raise BundleError(f"publish {destination}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return destination
