"""Publishing a bundle: what is released, what is looked for in it first, and where it goes.

The weights of a release are those of the bundle to the bit; its card and provenance may tell more.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict

from stunet.bundle import (
    CARD,
    PROVENANCE,
    SUMS,
    Bundle,
    load_predictor,
    load_weights,
    parse_sums,
    read_bundle,
    seal,
    write_provenance,
)
from stunet.errors import BundleError
from stunet.hub.fetch import fetch
from stunet.hub.leaks import find_leaks
from stunet.hub.licences import conflicts
from stunet.hub.place import HubPlace, is_hub
from stunet.hub.results import transfer_results
from stunet.inference.model_card import (
    PLACE,
    Provenance,
    card_title,
    model_card,
    revised_card,
)
from stunet.io.atomic import atomic_write_text, publish_folder, temporary_sibling
from stunet.io.remote import StoreOptions, is_url


@dataclass(frozen=True)
class Release:
    """How a bundle is published.

    Attributes:
        licence: SPDX identifier of the weights' licence; None: what the bundle says.
        override: Why that licence is right although the data's seem to forbid it; goes into the
            card. None: a conflict is an error.
        reports: Folders of transfer evaluations of this very bundle, for the card.
        card: A model card to take instead of the bundle's; its YAML header is renewed, its text
            stays.
        shard_bytes: Cut the weights anew into files of about this size; None: leave them.
        private: Make a new repository of the Hub private.
    """

    licence: str | None = None
    override: str | None = None
    reports: tuple[Path, ...] = ()
    card: Path | None = None
    shard_bytes: int | None = None
    private: bool = False


def publish(
    bundle: str | Path,
    destination: str | Path,
    release: Release | None = None,
    options: StoreOptions | None = None,
) -> str:
    """Check a bundle and put it where others find it, whole or not at all; return the address.

    The same call again continues an interrupted one, and does nothing after a finished one.

    Args:
        bundle: Anything that `stunet.load` takes.
        destination: `hf://user/name`, with `@branch` if it is not the main one; another URL; or a
            folder to make.
        release: What the release says of itself.
        options: For other URLs than the Hub's.

    Raises:
        BundleError: It does not load, its licence conflicts with that of its data, a file of it
            holds a secret, another bundle is there already, or sending it failed.
    """
    release, options = release or Release(), options or StoreOptions()
    source = read_bundle(fetch(bundle, options))
    with tempfile.TemporaryDirectory(prefix="stunet-publish-") as folder:
        staged = _stage(source, str(destination), release, Path(folder))
        _check(source.folder, staged, release)
        if is_hub(destination):
            from stunet.hub.hugging_face import send_to_hub

            return send_to_hub(staged.folder, HubPlace.parse(str(destination)), release.private)
        if is_url(destination):
            from stunet.hub.url import send_to_url

            send_to_url(staged.folder, str(destination), options)
        else:
            _send_to_folder(staged, Path(destination))
    return str(destination)


def _stage(source: Bundle, destination: str, release: Release, folder: Path) -> Bundle:
    """Lay out what is released: links to the files that stay, new ones for those that do not."""
    names = list(parse_sums((source.folder / SUMS).read_text(), source.folder))
    if release.shard_bytes is not None:
        weights = load_weights(source)
        save_torch_state_dict(weights, folder, max_shard_size=release.shard_bytes)
        names = [name for name in names if not name.startswith("model")]
    for name in names:
        (folder / name).symlink_to((source.folder / name).resolve())
    provenance = _provenance(source, release)
    card = _card(source, provenance, destination, release.card)
    if provenance != source.provenance:
        (folder / PROVENANCE).unlink()
        write_provenance(folder, provenance)
    if card != (source.folder / CARD).read_text():
        (folder / CARD).unlink()
        atomic_write_text(folder / CARD, card)
    seal(folder)
    return read_bundle(folder)


def _provenance(source: Bundle, release: Release) -> Provenance:
    metrics = dict(source.provenance.metrics)
    for report in release.reports:
        metrics |= transfer_results(report, source.sha256)
    return replace(
        source.provenance,
        licence=release.licence or source.provenance.licence,
        metrics=metrics,
        licence_note=release.override or source.provenance.licence_note,
    )


def _card(source: Bundle, provenance: Provenance, destination: str, own: Path | None) -> str:
    """The card of the release; in a folder it keeps its title and names no address."""
    try:
        old = (own or source.folder / CARD).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"card {own}: cannot be read ({error}); give a text file") from None
    title = card_title(old) or source.folder.name
    place, name = PLACE, title
    if is_url(destination):
        place = destination.rstrip("/")
        name = place.partition("@")[0].rpartition("/")[2]
    parts = source.model, source.preprocessing, source.labels
    regions = source.regions
    generated = model_card(title, *parts, source.provenance, regions=regions)
    new = model_card(name, *parts, provenance, place, regions)
    return revised_card(old, generated, new)


def _check(bundle: Path, staged: Bundle, release: Release) -> None:
    """Raise if something speaks against publishing."""
    provenance = staged.provenance
    found = conflicts(provenance.licence, provenance.data)
    if found and not provenance.licence_note:
        raise BundleError(
            f"publish {bundle}: licence {provenance.licence} conflicts: {'; '.join(found)}; "
            "declare another with --licence, or say why it is right with --licence-override REASON"
        )
    leaks = find_leaks(staged.folder)
    if leaks:
        raise BundleError(
            f"publish {bundle}: looks as if it holds secrets: {', '.join(map(str, leaks[:5]))}; "
            "remove them, and revoke what was shared already"
        )
    network = load_predictor(staged).model
    wrong = [n for n, tensor in network.state_dict().items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise BundleError(
            f"publish {bundle}: weights of {wrong[0]} are not finite; export another checkpoint"
        )


def _send_to_folder(staged: Bundle, destination: Path) -> None:
    if destination.exists():
        if read_bundle(destination).sha256 != staged.sha256:
            raise BundleError(f"publish {destination}: another bundle is there; name a new folder")
        return
    temporary = temporary_sibling(destination)
    try:
        temporary.mkdir(parents=True)
        for path in staged.folder.iterdir():
            shutil.copyfile(path, temporary / path.name)
        read_bundle(temporary)
        publish_folder(temporary, destination)
    except OSError as error:
        raise BundleError(f"publish {destination}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
