"""What a conversion takes from where, and what it refuses instead of guessing."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stunet.bundle import read_bundle
from stunet.convert.convert import ConvertOptions, convert
from stunet.errors import BundleError, CheckpointError, ConfigError
from stunet.types import Channel, Region
from tests import published

RAS = ConvertOptions("RAS")


def write_unet(folder: Path, plans: dict[str, Any], **dataset: Any) -> Path:
    weights = published.unet_weights(False)
    return published.write_v2(folder, weights, plans, published.v2_dataset(**dataset))


def unet_plans(**changes: Any) -> dict[str, Any]:
    return published.v2_plans(published.architecture(False), **changes)


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    weights = published.stunet_weights(classes=3)
    return published.write_v1(tmp_path / "base_ep4k.model", weights)


@pytest.fixture
def v1_labels(tmp_path: Path) -> str:
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"labels": {"0": "background", "1": "liver", "2": "spleen"}}))
    return str(file)


def refused(path: Path, options: ConvertOptions, match: str) -> None:
    out = path.parent / "refused"
    with pytest.raises((CheckpointError, ConfigError, BundleError), match=match) as caught:
        convert(path, out, options)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_the_bundle_of_an_nnunet_folder(tmp_path: Path) -> None:
    plans = unet_plans(transpose_forward=[1, 0, 2])
    folder = write_unet(tmp_path / "model", plans)
    done = convert(folder, tmp_path / "out", ConvertOptions("LAS", licence="CC-BY-4.0"))
    bundle = read_bundle(tmp_path / "out")
    ct = Channel("CT", "ct", (-58.0, 302.0), 93.5, 41.25)
    assert bundle.preprocessing.channels == (ct, Channel("PET", "zscore"))
    assert bundle.preprocessing.spacing_mm == (1.5, 3.0, 1.25)
    assert bundle.preprocessing.patch_size == (32, 16, 32)
    assert bundle.model.strides == ((2, 1, 2), (2, 2, 2), (2, 1, 2))
    assert bundle.model.mirrored == (2,)
    assert bundle.labels == published.LABELS
    assert bundle.provenance.licence == "CC-BY-4.0"
    origin = bundle.provenance.recipe["converted"]
    assert (origin["fold"], origin["epochs"], origin["orientation"]) == (0, 1000, "LAS")
    assert [(s.name, s.cases) for s in bundle.provenance.data] == [("Small", 12)]
    assert [note.split()[0] for note in done.notes] == ["nnU-Net", "the"]


def test_which_file_of_a_folder(tmp_path: Path) -> None:
    folder = write_unet(tmp_path / "model", unet_plans())
    fold = folder / "fold_0"
    for number, path in enumerate((folder, fold, fold / "checkpoint_final.pth")):
        assert convert(path, tmp_path / f"out{number}", RAS).outputs.labels == published.LABELS
    (folder / "fold_1").mkdir()
    refused(folder, RAS, "has fold_0, fold_1; .* give the folder of one fold")
    refused(folder / "fold_1", RAS, "has no checkpoint_final.pth or model_final_checkpoint.model")
    refused(tmp_path / "absent.pth", RAS, "does not exist")
    with pytest.raises(BundleError, match="is already there"):
        convert(folder, tmp_path / "out0", RAS)


def test_a_file_that_brings_its_own_plan(tmp_path: Path) -> None:
    folder = write_unet(tmp_path / "model", unet_plans())
    alone = (folder / "fold_0" / "checkpoint_final.pth").rename(tmp_path / "alone.pth")
    assert convert(alone, tmp_path / "out", RAS).outputs.labels == published.LABELS


# What is missing ---------------------------------------------------------------------------------


def test_v1_asks_for_what_it_does_not_say(v1: Path, v1_labels: str) -> None:
    refused(v1, ConvertOptions(labels=v1_labels), "give --orientation as 'stunet data show' prints")
    refused(v1, RAS, "no dataset.json beside it that names its labels; give one by --labels")
    refused(v1, ConvertOptions("RAS", labels="stunet"), "states 105 labels .* network has 3 out")
    v1.with_name(v1.name + ".pkl").unlink()
    options = ConvertOptions("RAS", labels=v1_labels)
    refused(v1, options, "no base_ep4k.model.pkl or plans.json beside it, and weights do not tell")


def test_a_plan_that_lacks_the_stages_is_named(v1: Path, v1_labels: str, tmp_path: Path) -> None:
    """The `plans.pkl` of the release is such a plan."""
    v1.with_name(v1.name + ".pkl").unlink()
    plans = published.v1_plans()
    del plans["plans_per_stage"]
    (tmp_path / "plans.pkl").write_bytes(pickle.dumps(plans))
    options = ConvertOptions("RAS", tmp_path / "plans.pkl", v1_labels)
    refused(v1, options, r"plans.pkl: has no 'plans_per_stage'; give a complete plan by --plans")


@pytest.mark.parametrize("key", ["spacing", "patch_size", "normalization_schemes"])
def test_missing_keys_of_v2_are_named(tmp_path: Path, key: str) -> None:
    plans = unet_plans()
    del plans["configurations"]["3d_fullres"][key]
    folder = write_unet(tmp_path / "model", plans)
    refused(folder, RAS, rf"plans.json \(3d_fullres\): has no '{key}'")


def test_weights_that_do_not_say_their_configuration(tmp_path: Path) -> None:
    folder = write_unet(tmp_path / "model", unet_plans())
    torch.save(
        {"network_weights": published.unet_weights(False)},
        folder / "fold_0" / "checkpoint_final.pth",
    )
    refused(folder, RAS, "configurations 3d_fullres, 3d_small .* give --configuration")
    options = ConvertOptions("RAS", configuration="3d_small")
    assert convert(folder, tmp_path / "out", options).preprocessing.patch_size == (16, 32, 32)


# Wrong strides -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pool_op_kernel_sizes": [[2, 2, 2]] * 5}, r"num_pool_per_axis \[4, 4, 5\] contradicts"),
        (
            {"pool_op_kernel_sizes": [[2, 2, 2]] * 4 + [[1, 1, 3]]},
            r"patch \(128, 128, 128\) is not divisible by \(16, 16, 48\)",
        ),
        ({"pool_op_kernel_sizes": [[2, 2]] * 5}, "are not triples"),
    ],
)
def test_wrong_strides_of_v1(
    tmp_path: Path, v1_labels: str, changes: dict[str, Any], match: str
) -> None:
    file = published.write_v1(
        tmp_path / "m.model", published.stunet_weights(classes=3), published.v1_plans(**changes)
    )
    refused(file, ConvertOptions("RAS", labels=v1_labels), match)


def test_a_plan_that_is_not_the_one_of_the_weights(v1: Path, v1_labels: str) -> None:
    """Five isotropic strides, consistent in themselves, against what the record says."""
    isotropic = published.v1_plans(
        pool_op_kernel_sizes=[[2, 2, 2]] * 5, num_pool_per_axis=[5, 5, 5]
    )
    other = v1.with_name("other.pkl")
    other.write_bytes(pickle.dumps(isotropic))
    refused(
        v1,
        ConvertOptions("RAS", other, v1_labels),
        r"other.pkl: is not the plan the weights were trained with.*strides",
    )


def test_wrong_strides_of_v2(tmp_path: Path) -> None:
    right = unet_plans()
    wrong = unet_plans()
    options = wrong["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    options["strides"] = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
    weights, dataset = published.unet_weights(False), published.v2_dataset()
    edited = published.write_v2(tmp_path / "edited", weights, wrong, dataset, init_plans=right)
    refused(edited, RAS, "plans.json: is not the plan the weights were trained with")
    # Transposed convolutions have the shape of their strides.
    both = published.write_v2(tmp_path / "both", weights, wrong, dataset)
    refused(both, RAS, r"of another shape: decoder.transpconvs.2.weight \(6, 4, 1, 2, 2\)")
    options["strides"] = options["strides"][:3]
    fewer = published.write_v2(tmp_path / "fewer", weights, wrong, dataset)
    refused(fewer, RAS, "4 stages take one less, got 2")


def test_the_stage_of_v1_that_the_record_names(tmp_path: Path, v1_labels: str) -> None:
    plans = published.v1_plans()
    coarse = plans["plans_per_stage"][0] | {"current_spacing": [3.0, 3.0, 3.0]}
    plans["plans_per_stage"] = {0: coarse, 1: plans["plans_per_stage"][0]}
    file = published.write_v1(
        tmp_path / "m.model", published.stunet_weights(classes=3), plans, stage=1
    )
    options = ConvertOptions("RAS", labels=v1_labels)
    assert convert(file, tmp_path / "out", options).preprocessing.spacing_mm == (1.5, 1.5, 1.5)
    cascade = published.stunet_weights(classes=3, in_channels=3)  # one-hot labels of stage 0
    file = published.write_v1(tmp_path / "n.model", cascade, plans, stage=1)
    refused(file, options, r"1 channel\(s\) are described, the network takes 3")
    (tmp_path / "plans.pkl").write_bytes(pickle.dumps(plans))
    file.with_name("n.model.pkl").unlink()
    refused(file, replace(options, plans=tmp_path / "plans.pkl"), "has 2 stages and the checkpoint")


def test_plans_of_another_depth_follow_the_trainers_rule(tmp_path: Path, v1_labels: str) -> None:
    plans = published.v1_plans(pool_op_kernel_sizes=[[2, 2, 2]] * 3, num_pool_per_axis=[3, 3, 3])
    weights = published.stunet_weights(classes=3)
    file = published.write_v1(tmp_path / "m.model", weights, plans)
    done = convert(file, tmp_path / "out", ConvertOptions("RAS", labels=v1_labels))
    assert done.model.strides == ((2, 2, 2),) * 3 + ((1, 1, 1),) * 2


# What this library does not do -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"normalization_schemes": ["CTNormalization", "RGBTo01Normalization"]}, "by RGBTo01"),
        ({"use_mask_for_norm": [False, True]}, r"channel 1 .* nonzero voxels only"),
        ({"resampling_fn_data": "resample_torch_simple"}, "resampling_fn_data is resample_torch"),
        ({"resampling_fn_data_kwargs": {"is_seg": False, "order": 1}}, "resampling_fn_data is"),
        ({"resampling_fn_probabilities_kwargs": {"order": 3}}, "resampling_fn_probabilities is"),
        ({"preprocessor_name": "Mine"}, "preprocessor 'Mine'"),
        ({"patch_size": [32, 32]}, "is a network in 2D"),
        ({"spacing": [0.0, 1.0, 1.0]}, r"spacing \(0.0, 1.0, 1.0\).* must be above 0"),
        ({"previous_stage": "3d_lowres"}, "is the second stage of a cascade"),
        ({"inherits_from": "3d_small"}, "inherits from itself"),
        ({"transpose_forward": [0, 0, 1]}, r"transpose_forward \[0, 0, 1\]: is no order"),
    ],
)
def test_plans_that_ask_for_something_else(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    refused(write_unet(tmp_path / "model", unet_plans(**changes)), RAS, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"norm_op": "torch.nn.BatchNorm3d"}, "norm_op 'torch.nn.BatchNorm3d'"),
        ({"dropout_op": "torch.nn.Dropout3d"}, "dropout_op"),
        ({"conv_bias": False}, "conv_bias False"),
        ({"nonlin": "torch.nn.ReLU"}, "nonlin 'torch.nn.ReLU'"),
        ({"nonlin_kwargs": {"negative_slope": 0.2}}, "nonlin_kwargs"),
        ({"squeeze_excitation": True}, "squeeze_excitation True"),
        ({"features_per_stage": [4, 6, 8, 12]}, "of another shape"),
    ],
)
def test_networks_with_other_options(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    plans = published.v2_plans(published.architecture(False, **change))
    refused(write_unet(tmp_path / "model", plans), RAS, match)


def test_networks_that_are_not_known(tmp_path: Path) -> None:
    plans, dataset = unet_plans(), published.v2_dataset()
    generic = {"conv_blocks_context.0.blocks.0.conv.weight": torch.zeros(2, 1, 3, 3, 3)}
    folder = published.write_v2(tmp_path / "generic", generic, plans, dataset)
    refused(folder, RAS, "is a Generic_UNet of nnU-Net v1")
    folder = published.write_v2(tmp_path / "x", {"blocks.0.w": torch.zeros(2)}, plans, dataset)
    refused(folder, RAS, "first tensors are blocks.0.w")
    residual = published.write_v2(tmp_path / "r", published.unet_weights(True), plans, dataset)
    refused(residual, RAS, "holds a ResidualEncoderUNet, the plan describes PlainConvUNet")
    wide = published.stunet_weights(width=4, classes=3, in_channels=2)
    folder = published.write_v2(tmp_path / "wide", wide, plans, dataset)
    refused(folder, RAS, "an STU-Net of width 4 and depth 1; known are XS")


def test_twins_that_differ(tmp_path: Path) -> None:
    weights = published.unet_weights(False)
    name = "decoder.encoder.stages.0.0.convs.0.conv.bias"
    weights[name] = weights[name] + 1
    folder = published.write_v2(tmp_path / "m", weights, unet_plans(), published.v2_dataset())
    refused(folder, RAS, f"{name} is not equal to encoder.stages.0.0.convs.0.conv.bias, its twin")


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ({"background": 0, "whole": [1, 2], "core": [2]}, "2 regions, regions_class_order is None"),
        ({"background": 0, "liver": 2, "spleen": 3}, "states 3 labels with values 0 to 3"),
        ({"background": 0, "liver": 1}, "states 2 labels"),
        ({"liver": 0, "spleen": 1, "kidney": 2}, "background 0 included"),
        ({"background": 0, "liver": "x", "spleen": 1}, "'liver' has the value 'x'"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: dict[str, Any], match: str) -> None:
    refused(write_unet(tmp_path / "model", unet_plans(), labels=labels), RAS, match)


def test_regions_become_the_outputs(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    dataset = published.v2_dataset(labels=labels) | {"regions_class_order": [1, 2, 3]}
    weights = published.unet_weights(False)
    folder = published.write_v2(tmp_path / "model", weights, unet_plans(), dataset)
    bundle = read_bundle(convert(folder, tmp_path / "out", RAS).bundle)
    assert bundle.regions == (
        Region("whole", (1, 2, 3), 1),
        Region("core", (2, 3), 2),
        Region("enhancing", (3,), 3),
    )
    assert bundle.labels == {"background": 0, "label_1": 1, "label_2": 2, "enhancing": 3}


def test_the_ignore_label_is_no_output(tmp_path: Path) -> None:
    labels = {"background": 0, "liver": 1, "spleen": [2], "ignore": 3}
    folder = write_unet(tmp_path / "model", unet_plans(), labels=labels)
    assert convert(folder, tmp_path / "out", RAS).outputs.labels == published.LABELS


def test_a_reader_that_reorients_needs_no_orientation(tmp_path: Path) -> None:
    plans = unet_plans(image_reader_writer="NibabelIOWithReorient")
    folder = write_unet(tmp_path / "model", plans)
    assert convert(folder, tmp_path / "out").model.mirrored == ()
    refused(folder, ConvertOptions("LPS"), "were brought to RAS when they were read")


@pytest.mark.parametrize("letters", ["RA", "RAX", "RLS", "RASS", ""])
def test_orientations_that_are_none(v1: Path, v1_labels: str, letters: str) -> None:
    refused(v1, ConvertOptions(letters, labels=v1_labels), f"--orientation {letters}: give three")


@pytest.mark.parametrize("content", ["{", "[]", '{"configurations": 3}', "[" * 10**5, "\x80"])
def test_plans_that_are_no_plans(tmp_path: Path, content: str) -> None:
    folder = write_unet(tmp_path / "model", unet_plans())
    (folder / "plans.json").write_text(content)
    refused(folder, RAS, "plans.json: is (not JSON|no plan|malformed)|'configurations' is not")
