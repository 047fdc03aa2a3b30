"""A published bundle is the bundle, whole and fit for others, or nothing is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from stunet.bundle import load_weights, read_bundle, seal, write_bundle
from stunet.errors import BundleError, DataError
from stunet.hub.publish import Release, publish
from stunet.inference.model_card import DataSource, Provenance
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing

STRIDES = ((2, 2, 2),) * 4 + ((1, 1, 2),)
MODEL = ModelConfig(size="XS", in_channels=1, classes=2, strides=STRIDES)


def make(folder: Path, seed: int = 1, licence: str = "MIT", data_licence: str = "CC0-1.0") -> Path:
    channels = (Channel("CT", "ct", clip=(-900.0, 1200.0), mean=100.0, std=300.0),)
    preprocessing = Preprocessing((3.0, 1.5, 1.5), (32, 32, 64), channels)
    data = (DataSource("Toy", data_licence, cases=2, sha256="ab" * 32),)
    provenance = Provenance(licence, data, {}, None, 7, {"Toy val": {"dice": 0.75}}, {})
    weights = build_model(MODEL, seed=seed).state_dict()
    labels = {"background": 0, "liver": 1}
    return write_bundle(folder, MODEL, preprocessing, labels, weights, provenance)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("bundles") / "bundle")


def refused(bundle: Path, to: Path, *words: str, release: Release | None = None) -> None:
    with pytest.raises(BundleError) as caught:
        publish(bundle, to, release)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not to.exists()
    assert not list(to.parent.glob(".*"))


def header(folder: Path) -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return loaded


def test_only_the_files_of_the_bundle_arrive(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle")
    (bundle / "notes.txt").write_text("not for others")
    released = publish(bundle, tmp_path / "hub" / "ours")
    assert released == str(tmp_path / "hub" / "ours")
    assert read_bundle(released).sha256 == read_bundle(bundle).sha256
    arrived = {path.name for path in Path(released).iterdir()}
    assert {path.name for path in bundle.iterdir()} - arrived == {"notes.txt"}
    assert not any(path.is_symlink() for path in Path(released).iterdir())
    assert publish(bundle, released) == released  # the same command again


def test_a_damaged_bundle_leaves_nothing(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle")
    with (bundle / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    refused(bundle, tmp_path / "ours", "model.safetensors")


def test_another_bundle_is_not_overwritten(pristine: Path, tmp_path: Path) -> None:
    first = publish(pristine, tmp_path / "ours")
    before = read_bundle(first).sha256
    with pytest.raises(BundleError, match="another bundle is there"):
        publish(make(tmp_path / "b", seed=2), first)
    assert read_bundle(first).sha256 == before


def test_weights_cut_anew_are_the_same_weights(pristine: Path, tmp_path: Path) -> None:
    released = publish(pristine, tmp_path / "ours", Release(shard_bytes=4_000_000))
    bundle = read_bundle(released)
    assert len(bundle.weight_files) > 3
    assert all((bundle.folder / name).stat().st_size < 4_100_000 for name in bundle.weight_files)
    before, after = load_weights(read_bundle(pristine)), load_weights(bundle)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = build_model(MODEL, seed=1).state_dict()
    weights["seg_outputs.0.bias"][1] = float("nan")
    source = read_bundle(make(tmp_path / "sound"))
    bundle = write_bundle(
        tmp_path / "bundle",
        source.model,
        source.preprocessing,
        source.labels,
        weights,
        source.provenance,
    )
    refused(bundle, tmp_path / "ours", "seg_outputs.0.bias", "not finite")


def test_a_licence_conflict_is_refused_and_an_override_is_told(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle", licence="Apache-2.0", data_licence="CC BY-NC 4.0")
    refused(bundle, tmp_path / "ours", "Apache-2.0", "'Toy'", "CC BY-NC 4.0", "--licence-override")
    reason = "The data's owner agreed in writing."
    released = Path(publish(bundle, tmp_path / "ours", Release(override=reason)))
    assert reason in (released / "README.md").read_text()
    assert read_bundle(released).provenance.licence_note == reason


def test_a_licence_can_be_declared(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle", licence="other", data_licence="CC BY-NC 4.0")
    release = Release(licence="CC-BY-NC-4.0")
    released = Path(publish(bundle, tmp_path / "ours", release))
    assert header(released)["license"] == "cc-by-nc-4.0"
    assert read_bundle(released).provenance.licence == "CC-BY-NC-4.0"
    refused(bundle, tmp_path / "no", "conflicts", release=Release(licence="MIT"))


@pytest.mark.parametrize("name", ["README.md", "provenance.json"])
def test_secrets_are_refused_without_repeating_them(name: str, tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle")
    secret = "hf_" + "aB3dE6gH9j" * 3 + "Kl0m"
    if name == "README.md":
        (bundle / name).write_text((bundle / name).read_text() + f"\nTOKEN={secret}\n")
    else:
        record = json.loads((bundle / name).read_text())
        record["recipe"] = {"hub": {"token": secret}}
        (bundle / name).write_text(json.dumps(record))
    (bundle / "SHA256SUMS").unlink()
    seal(bundle)
    refused(bundle, tmp_path / "ours", name, "Hugging Face token", "line")
    with pytest.raises(BundleError) as caught:
        publish(bundle, tmp_path / "ours")
    assert secret not in str(caught.value)


def summary(folder: Path, sha256: str) -> Path:
    interval = {"mean": 0.8125, "low": 0.7, "high": 0.9, "n": 3}
    means = {"Dice": interval, "NSD": interval | {"mean": 0.5}, "HD95_mm": interval | {"mean": 9.0}}
    ours = {"dataset": "Amos", "bundle_sha256": sha256, "foreground_mean": means}
    (folder / "Amos").mkdir(parents=True)
    (folder / "Amos" / "summary.json").write_text(json.dumps({"stunet": ours}))
    return folder


def test_a_transfer_report_becomes_the_model_index(pristine: Path, tmp_path: Path) -> None:
    report = summary(tmp_path / "scores", read_bundle(pristine).sha256)
    released = Path(publish(pristine, tmp_path / "ours", Release(reports=(report,))))
    (model,) = header(released)["model-index"]  # type: ignore[misc, has-type]
    found = {
        (result["dataset"]["name"], metric["type"]): metric["value"]
        for result in model["results"]
        for metric in result["metrics"]
    }
    assert found == {
        ("Toy val", "dice"): 0.75,
        ("Amos transfer", "dice"): 0.8125,
        ("Amos transfer", "nsd"): 0.5,
        ("Amos transfer", "hd95_mm"): 9.0,
    }
    assert "| Amos transfer | dice | 0.8125 |" in (released / "README.md").read_text()
    assert "ab" * 32 in (released / "README.md").read_text()  # the data's hash


def test_a_report_about_another_bundle_is_refused(pristine: Path, tmp_path: Path) -> None:
    report = summary(tmp_path / "scores", "12" * 32)
    release = Release(reports=(report,))
    refused(pristine, tmp_path / "ours", "121212121212", "evaluate this one", release=release)
    (report / "Amos" / "summary.json").write_text('{"foreground_mean": {}}')
    refused(pristine, tmp_path / "ours", "summary.json", release=release)
    release = Release(reports=(tmp_path / "absent",))
    refused(pristine, tmp_path / "ours", "absent", "summary.json", release=release)


def test_a_card_of_ones_own(pristine: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("---\nlanguage: de\nlicense: mit\n---\n# Lebern\n")
    release = Release(licence="CC-BY-4.0", card=card)
    released = Path(publish(pristine, tmp_path / "ours", release))
    assert (released / "README.md").read_text().endswith("---\n# Lebern\n")
    assert (header(released)["language"], header(released)["license"]) == ("de", "cc-by-4.0")
    absent = Release(card=tmp_path / "absent.md")
    refused(pristine, tmp_path / "no", "absent.md", release=absent)


def test_what_a_person_wrote_in_the_card_stays(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle", licence="other")
    card = (bundle / "README.md").read_text().replace("---\n", "---\nlanguage: de\n", 1)
    (bundle / "README.md").write_text(card + "\nAsk the radiologist.\n")
    (bundle / "SHA256SUMS").unlink()
    seal(bundle)
    released = Path(publish(bundle, tmp_path / "ours", Release(licence="CC0-1.0")))
    assert "Ask the radiologist." in (released / "README.md").read_text()
    assert header(released)["language"] == "de"
    assert header(released)["license"] == "cc0-1.0"


def test_what_was_fetched_before_an_old_version_still_reads(pristine: Path, tmp_path: Path) -> None:
    """Bundles of the version before know no licence note."""
    bundle = read_bundle(pristine)
    old = tmp_path / "old"
    weights = load_weights(bundle)
    write_bundle(old, bundle.model, bundle.preprocessing, bundle.labels, weights, bundle.provenance)
    record = json.loads((old / "provenance.json").read_text())
    del record["licence_note"]
    (old / "provenance.json").write_text(json.dumps(record))
    (old / "SHA256SUMS").unlink()
    seal(old)
    assert read_bundle(old).provenance == replace(bundle.provenance, licence_note=None)


def test_checksums_go_last_so_that_a_part_is_no_bundle(pristine: Path, tmp_path: Path) -> None:
    (tmp_path / "toy" / "provenance.json").mkdir(parents=True)  # cannot be written
    with pytest.raises(DataError, match=r"provenance\.json"):
        publish(pristine, f"file://{tmp_path}/toy")
    assert (tmp_path / "toy" / "model.safetensors").exists()
    assert not (tmp_path / "toy" / "SHA256SUMS").exists()


def test_the_place_is_told(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    place = f"file://{tmp_path}/ward/toy"
    assert publish(pristine, place) == place
    card = (tmp_path / "ward" / "toy" / "README.md").read_text()
    assert f'stunet.load("{place}")' in card
    assert "\n# toy\n" in card
