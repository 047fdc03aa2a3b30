"""The real client of the Hub against a local server: publish, load, interruptions, damage."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

import stunet
from stunet.bundle import read_bundle
from stunet.errors import BundleError
from stunet.hub.fetch import fetch
from stunet.hub.network import HubNetwork
from stunet.hub.publish import Release, publish
from tests.integration.hub.stand_in import Hub

PLACE = "hf://ward/toy"
# Of the client's own upload without Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
CHUNK = constants.DOWNLOAD_CHUNK_SIZE  # what the client writes at once


def scan() -> tuple[np.ndarray, np.ndarray]:
    array = np.random.default_rng(0).normal(0, 400, (40, 30, 20)).astype(np.float32)
    return array, np.diag([1.5, 1.5, 3.0, 1.0])


def weights_sha256(folder: Path) -> str:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return next(line.split()[0] for line in lines if line.endswith("model.safetensors"))


def one_line(caught: pytest.ExceptionInfo[BundleError], *words: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_what_is_loaded_predicts_the_same_bits(hub: Hub, bundle: Path) -> None:
    before = stunet.load(bundle).predict_array(*scan())
    assert len(np.unique(before)) == 3
    pinned = publish(bundle, PLACE)
    assert pinned == f"{PLACE}@{hub.repositories['ward/toy'].branches['main']}"
    for place in (PLACE, pinned):
        assert np.array_equal(stunet.load(place).predict_array(*scan()), before)
    folder = fetch(PLACE)
    assert (folder / "model.safetensors").read_bytes() == (
        bundle / "model.safetensors"
    ).read_bytes()
    assert f'stunet.load("{PLACE}")' in (folder / "README.md").read_text()
    assert hub.count("GET", "/-/cdn/") == 1  # once for all of these
    assert (hub.tokens, hub.told_elsewhere) == ({"Bearer hf_standin"}, [])


def test_the_same_again_makes_no_commit(hub: Hub, bundle: Path) -> None:
    assert publish(bundle, PLACE) == publish(bundle, PLACE)
    assert hub.count("PUT", "/-/lfs/") == 1
    assert len(hub.repositories["ward/toy"].commits) == 2  # the first is the Hub's own


def test_a_new_release_replaces_the_old_one_which_stays_by_its_revision(
    hub: Hub, bundle: Path, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    old = publish(bundle, PLACE, Release(shard_bytes=4_000_000))
    assert len(read_bundle(fetch(old)).weight_files) > 1
    new = publish(make_bundle(tmp_path / "new", seed=2), PLACE)
    files = hub.repositories["ward/toy"].commits[new.partition("@")[2]]
    assert [name for name in files if name.startswith("model")] == ["model.safetensors"]
    array, affine = scan()
    before = stunet.load(bundle).predict_array(array, affine)
    assert np.array_equal(stunet.load(old).predict_array(array, affine), before)
    assert not np.array_equal(stunet.load(PLACE).predict_array(array, affine), before)


def test_a_branch_and_a_private_repository(hub: Hub, bundle: Path) -> None:
    publish(bundle, f"{PLACE}@trial", Release(private=True))
    assert hub.repositories["ward/toy"].private
    assert read_bundle(fetch(f"{PLACE}@trial")).labels["spleen"] == 2
    with pytest.raises(BundleError) as caught:
        fetch(PLACE)  # nothing on the main branch
    one_line(caught, PLACE, "no bundle", "SHA256SUMS")


def run_until_stalled(hub: Hub, code: str, ready: Callable[[], bool] = lambda: True) -> None:
    """Start a process that runs into the server's stall, and kill it there once it is ready."""
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        assert hub.stalled.wait(60)
        while not ready():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    hub.stalled.clear()


def test_a_killed_download_goes_on_where_it_was(hub: Hub, bundle: Path) -> None:
    publish(bundle, PLACE)
    hub.stall_after = CHUNK + CHUNK // 10
    part = (
        Path(constants.HF_HUB_CACHE) / "models--ward--toy/blobs" / f"{weights_sha256(bundle)}.part"
    )
    run_until_stalled(
        hub,
        f"import stunet; stunet.load({PLACE!r})",
        lambda: part.exists() and part.stat().st_size == CHUNK,
    )
    hub.asked.clear()
    assert read_bundle(fetch(PLACE)).sha256
    ranges = [
        wanted for method, path, wanted in hub.asked if (method, path[:7]) == ("GET", "/-/cdn/")
    ]
    assert ranges == [f"bytes={CHUNK}-"]
    assert not part.exists()


def test_a_killed_upload_sends_nothing_twice(hub: Hub, bundle: Path) -> None:
    hub.stall_commit = True
    code = f"from stunet.hub.publish import publish; publish({str(bundle)!r}, {PLACE!r})"
    run_until_stalled(hub, code)
    assert list(hub.repositories["ward/toy"].commits.values())[-1].keys() == {".gitattributes"}
    publish(bundle, PLACE)
    assert hub.count("PUT", "/-/lfs/") == 1
    assert read_bundle(fetch(PLACE)).sha256


@pytest.mark.parametrize("name", ["model.safetensors", "labels.json"])
def test_what_arrives_changed_is_noticed(hub: Hub, bundle: Path, name: str) -> None:
    hub.change = name
    with pytest.raises(BundleError) as caught:
        publish(bundle, PLACE)
    one_line(caught, PLACE, f"{name} did not arrive as it was sent")


def test_wrong_bytes_are_refused_and_not_kept(hub: Hub, bundle: Path) -> None:
    publish(bundle, PLACE)
    hub.spoil = weights_sha256(bundle)
    with pytest.raises(BundleError) as caught:
        stunet.load(PLACE)
    one_line(caught, PLACE, "model.safetensors", "another checksum")
    hub.spoil = ""
    assert stunet.load(PLACE).labels["liver"] == 1


def test_a_part_of_another_file_is_not_continued(hub: Hub, bundle: Path) -> None:
    publish(bundle, PLACE)
    listing = fetch(PLACE) / "SHA256SUMS"
    weights = listing.parent / "model.safetensors"
    blob = weights.resolve()
    weights.unlink()
    blob.rename(blob.with_name(blob.name + ".part"))
    with blob.with_name(blob.name + ".part").open("r+b") as file:
        file.truncate(1000)
        file.write(b"x" * 1000)
    assert read_bundle(fetch(PLACE)).sha256


def test_offline_the_cache_is_used(hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(bundle, PLACE)
    online = fetch(PLACE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert fetch(PLACE) == online
    assert hub.asked == []
    with pytest.raises(BundleError) as caught:
        fetch("hf://ward/other")
    one_line(caught, "hf://ward/other", "HF_HUB_OFFLINE")


def test_what_is_not_there_is_one_line(hub: Hub, bundle: Path) -> None:
    publish(bundle, PLACE)
    for place, words in {
        "hf://ward/absent": ("no such repository", "hf auth login"),
        "hf://ward/toy@v9": ("no such revision",),
        "hf://toy": ("hf://USER/NAME",),
    }.items():
        with pytest.raises(BundleError) as caught:
            fetch(place)
        one_line(caught, place, *words)


def test_without_permission_nothing_is_sent(hub: Hub, bundle: Path) -> None:
    hub.status = 403
    with pytest.raises(BundleError) as caught:
        publish(bundle, PLACE)
    one_line(caught, PLACE, "HF_TOKEN")
    assert hub.objects == {}


def test_the_network_alone(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    import torch

    publish(bundle, PLACE)
    image = torch.randn((1, 1, 32, 32, 64), generator=torch.Generator().manual_seed(0))
    wanted = stunet.load(bundle).model(image)
    network = HubNetwork.from_pretrained("ward/toy")
    with torch.no_grad():
        assert torch.equal(network(image), wanted)
    network.push_to_hub("ward/network")
    again = HubNetwork.from_pretrained("ward/network")
    with torch.no_grad():
        assert torch.equal(again(image), wanted)
    assert hub.repositories["ward/network"].branches["main"]
