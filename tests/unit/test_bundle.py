import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from stunet.bundle import (
    Bundle,
    DataSource,
    Provenance,
    load_predictor,
    load_weights,
    read_bundle,
    write_bundle,
)
from stunet.errors import BundleError
from stunet.models.spec import ModelConfig
from stunet.registry import build_model
from stunet.types import Channel, Preprocessing, Region

MODEL = ModelConfig(size="XS", in_channels=1, classes=4, strides=((2, 2, 2),) * 4 + ((1, 1, 2),))
PREPROCESSING = Preprocessing(
    spacing_mm=(3.0, 1.5, 1.25),
    patch_size=(32, 32, 64),
    channels=(Channel("CT", "ct", clip=(-900.0, 1200.5), mean=101.25, std=300.0),),
)
LABELS = {"background": 0, "liver": 1, "left kidney": 3}
PROVENANCE = Provenance(
    licence="Apache-2.0",
    data=(DataSource("Toy", licence="CC BY 4.0", cases=2, sha256="ab" * 32),),
    recipe={"optim": {"lr": 0.01}},
    commit="c0ffee",
    step=7,
    metrics={"Toy val": {"dice": 0.8125, "nsd": float("nan")}},
    versions={"torch": torch.__version__},
)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return build_model(MODEL, seed=3).state_dict()


@pytest.fixture(scope="module")
def pristine(weights, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    return write_bundle(folder, MODEL, PREPROCESSING, LABELS, weights, PROVENANCE)


@pytest.fixture
def folder(pristine, tmp_path) -> Path:
    """A bundle of one's own, to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "toy"))


def seal_again(folder: Path) -> None:
    """What a forger, or somebody who edits a bundle by hand, does."""
    names = sorted(p.name for p in folder.iterdir() if p.name != "SHA256SUMS")
    text = subprocess.check_output(["sha256sum", "--", *names], cwd=folder, text=True)
    (folder / "SHA256SUMS").write_text(text)


def edit(folder: Path, name: str, change) -> None:
    record = json.loads((folder / name).read_text())
    change(record)
    (folder / name).write_text(json.dumps(record))
    seal_again(folder)


def assert_refused(folder: Path, *words: str) -> None:
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in (str(folder), *words)), message


def test_everything_comes_back(pristine, weights):
    bundle = read_bundle(pristine)
    assert bundle.model == MODEL
    assert bundle.preprocessing == PREPROCESSING
    assert bundle.labels == LABELS
    undefined = {"Toy val": {"dice": 0.8125, "nsd": None}}
    assert bundle.provenance == replace(PROVENANCE, metrics=undefined)
    loaded = load_weights(bundle)
    assert list(loaded) == sorted(weights)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_the_loaded_network_computes_what_the_trained_one_does(pristine):
    trained = build_model(MODEL, seed=3).eval()
    predictor = load_predictor(pristine)
    image = torch.randn((1, 1, 32, 32, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(predictor.model(image), trained(image))
    assert not predictor.model.training
    assert not any(p.requires_grad for p in predictor.model.parameters())


def test_other_tools_accept_the_files(pristine):
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=pristine, check=True)
    with safe_open(pristine / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    head = yaml.safe_load((pristine / "README.md").read_text().split("---\n")[1])
    assert head["license"] == "apache-2.0"
    assert head["library_name"] == "stunet"
    assert head["pipeline_tag"] == "image-segmentation"
    assert head["datasets"] == ["Toy"]
    assert head["metrics"] == ["dice"]
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.8125
    config = json.loads((pristine / "config.json").read_text())
    assert (config["axis_order"], config["orientation"]) == ("zyx", "RAS+")
    assert config["model"]["strides"][-1] == [1, 1, 2]


def test_large_weights_are_sharded_by_the_hub_convention(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("stunet.bundle.SHARD_BYTES", 10**6)
    folder = write_bundle(tmp_path / "toy", MODEL, PREPROCESSING, LABELS, weights, PROVENANCE)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(weights)
    assert len(set(index["weight_map"].values())) > 1
    assert not (folder / "model.safetensors").exists()
    loaded = load_weights(read_bundle(folder))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    shard = folder / index["weight_map"]["seg_outputs.0.bias"]
    shard.unlink()
    assert_refused(folder, shard.name, "missing")


WHOLE, CORE = Region("whole", (1, 3), 1), Region("core", (3,), 3)


def test_regions_come_back_in_the_order_of_the_outputs(tmp_path):
    model = replace(MODEL, classes=2)
    weights = build_model(model, seed=3).state_dict()
    for number, regions in enumerate([(WHOLE, CORE), (CORE, WHOLE)]):
        folder = write_bundle(
            tmp_path / f"{number}", model, PREPROCESSING, LABELS, weights, PROVENANCE, regions
        )
        bundle = read_bundle(folder)
        assert (bundle.regions, bundle.labels) == (regions, LABELS)
        assert bundle.outputs == {region.name: i for i, region in enumerate(regions)}
        assert load_predictor(bundle).regions == regions
        # A version that does not know regions must not take them for classes.
        assert json.loads((folder / "config.json").read_text())["format_version"] == 2
    table = (
        "| region | labels | painted as |\n| --- | --- | --- |\n| core | 3 | 3 |\n| whole | 1, 3 |"
    )
    assert table in (folder / "README.md").read_text()
    assert json.loads((folder / "labels.json").read_text()) == {
        "labels": LABELS,
        "regions": {"core": [3], "whole": [1, 3]},
        "regions_class_order": [3, 1],
    }


def test_a_bundle_without_regions_is_what_it_was_before_there_were_any(pristine):
    assert json.loads((pristine / "config.json").read_text())["format_version"] == 1
    assert json.loads((pristine / "labels.json").read_text()) == {"labels": LABELS}
    assert "Regions" not in (pristine / "README.md").read_text()
    bundle = read_bundle(pristine)
    assert (bundle.regions, bundle.outputs) == ((), LABELS)


@pytest.mark.parametrize(
    ("regions", "word"),
    [
        ((WHOLE,), "1 region(s) are described, the network has 2 output(s)"),
        ((WHOLE, WHOLE), "under a name of its own"),
        ((WHOLE, replace(CORE, values=(3, 2))), "region 'core' is of labels [3, 2]"),
        ((WHOLE, replace(CORE, values=())), "region 'core' is of labels []"),
        ((WHOLE, replace(CORE, paints=2)), "paints 2; use values of its labels, which are [0, 1,"),
    ],
)
def test_regions_that_do_not_fit_are_not_written(regions, word, tmp_path):
    model = replace(MODEL, classes=2)
    weights = build_model(model, seed=3).state_dict()
    with pytest.raises(BundleError) as caught:
        write_bundle(tmp_path / "toy", model, PREPROCESSING, LABELS, weights, PROVENANCE, regions)
    assert word in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_class_order_of_another_length_is_malformed(tmp_path):
    model = replace(MODEL, classes=2)
    weights = build_model(model, seed=3).state_dict()
    folder = write_bundle(
        tmp_path / "toy", model, PREPROCESSING, LABELS, weights, PROVENANCE, (WHOLE, CORE)
    )
    edit(folder, "labels.json", lambda record: record["regions_class_order"].pop())
    assert_refused(folder, "malformed")


def test_the_same_parts_give_the_same_bytes(pristine, weights, tmp_path):
    again = write_bundle(tmp_path / "toy", MODEL, PREPROCESSING, LABELS, weights, PROVENANCE)
    assert read_bundle(again).sha256 == read_bundle(pristine).sha256


def test_weights_in_any_memory_layout_are_written(weights, tmp_path):
    strided = {
        name: t.to(memory_format=torch.channels_last_3d) if t.ndim == 5 else t
        for name, t in weights.items()
    }
    folder = write_bundle(tmp_path / "toy", MODEL, PREPROCESSING, LABELS, strided, PROVENANCE)
    loaded = load_weights(read_bundle(folder))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(pristine, weights, tmp_path):
    with pytest.raises(BundleError, match="already there"):
        write_bundle(pristine, MODEL, PREPROCESSING, LABELS, weights, PROVENANCE)
    unwritable = replace(PROVENANCE, recipe={"path": object()})
    with pytest.raises(TypeError):
        write_bundle(tmp_path / "toy", MODEL, PREPROCESSING, LABELS, weights, unwritable)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "preprocessing", "labels", "word"),
    [
        (replace(MODEL, in_channels=2), PREPROCESSING, LABELS, "channel"),
        (MODEL, replace(PREPROCESSING, patch_size=(32, 32, 48)), LABELS, "patch"),
        (MODEL, PREPROCESSING, LABELS | {"spleen": 4}, "spleen"),
        (MODEL, PREPROCESSING, LABELS | {"spleen": 1}, "distinct"),
        (MODEL, PREPROCESSING, {"liver": 1}, "background"),
        (replace(MODEL, classes=5), PREPROCESSING, LABELS, "seg_outputs.0.weight"),
        (replace(MODEL, size="XXL"), PREPROCESSING, LABELS, "XXL"),
    ],
)
def test_parts_that_do_not_fit_are_not_written(
    model, preprocessing, labels, word, weights, tmp_path
):
    with pytest.raises(BundleError, match=word):
        write_bundle(tmp_path / "toy", model, preprocessing, labels, weights, PROVENANCE)
    assert list(tmp_path.iterdir()) == []


def test_not_a_folder(tmp_path):
    assert_refused(tmp_path / "absent", "not a folder")
    (tmp_path / "file").touch()
    assert_refused(tmp_path / "file", "not a folder")


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "labels.json", "provenance.json", "README.md"],
)
def test_each_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert_refused(folder, name, "missing")
    seal_again(folder)
    assert_refused(folder, name)


def test_missing_checksums(folder):
    (folder / "SHA256SUMS").unlink()
    assert_refused(folder, "SHA256SUMS", "missing")


@pytest.mark.parametrize("name", ["model.safetensors", "labels.json", "README.md"])
def test_one_flipped_bit_is_found(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-5] ^= 4
    (folder / name).write_bytes(data)
    assert_refused(folder, name, "not the file that was published")


def test_a_web_page_instead_of_weights(folder):
    (folder / "model.safetensors").write_text("\n<!DOCTYPE html><html>Sign in</html>")
    assert_refused(folder, "model.safetensors", "HTML")
    seal_again(folder)
    assert_refused(folder, "model.safetensors", "HTML")


def test_a_git_lfs_pointer_instead_of_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert_refused(folder, "git lfs pull")


def test_a_pickle_instead_of_weights_is_never_opened(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"state_dict": Trap()}, folder / "model.safetensors")
    seal_again(folder)
    assert_refused(folder, "model.safetensors", "no safetensors file")
    assert not (tmp_path / "sprung").exists()


def test_newer_format(folder):
    edit(folder, "config.json", lambda c: c.update(format_version=3))
    assert_refused(folder, "version 3", "upgrade")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c.pop("preprocessing"), "preprocessing"),
        (lambda c: c.update(axis_order="xyz"), "axis order"),
        (lambda c: c["model"].update(depth=3), "depth"),
        (lambda c: c["model"].update(name="unet"), "unet"),
        (lambda c: c["model"].pop("strides"), "strides"),
        (lambda c: c["model"].update(size="S"), "conv1.weight (8, 1, 3, 3, 3) instead of (16, 1"),
    ],
)
def test_a_description_that_does_not_fit(folder, change, word):
    edit(folder, "config.json", change)
    assert_refused(folder, word)


def test_names_of_tensors_that_do_not_fit_are_listed(folder, weights):
    from safetensors.torch import save_file

    changed = dict(weights)
    changed["head.extra"] = changed.pop("seg_outputs.4.bias")
    save_file(changed, folder / "model.safetensors")
    seal_again(folder)
    assert_refused(
        folder, "missing: seg_outputs.4.bias", "not of the network: head.extra", "config.json"
    )


def test_names_inside_a_bundle_cannot_lead_out_of_it(folder):
    sums = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(sums + f"{'0' * 64}  ../../etc/passwd\n")
    assert_refused(folder, "../../etc/passwd", "not a plain file name")


def test_a_read_bundle_is_loaded_without_its_path(pristine):
    bundle = read_bundle(pristine)
    assert isinstance(bundle, Bundle)
    assert load_predictor(bundle).labels == LABELS
