"""Checkpoints with random weights in the layouts that STU-Net and nnU-Net publish.

Written from the formats' description, with no code of ours: keys, envelopes and plans as the
trainers write them, what nobody needs for prediction (optimizer, logs, numpy scalars) included.
"""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor

Weights = OrderedDict[str, Tensor]
RELEASED_STRIDES = [[2, 2, 2]] * 4 + [[1, 1, 2]]
CT = {"mean": 93.5, "std": 41.25, "percentile_00_5": -58.0, "percentile_99_5": 302.0}

# A small U-Net with all that differs between stages.
CHANNELS = [4, 6, 8, 8]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]]
ENCODER, DECODER = [1, 3, 2, 1], [1, 2, 1]
LABELS = {"background": 0, "liver": 1, "spleen": 2}


class Drawn:
    """Random tensors from a seed, collected under their names."""

    def __init__(self, seed: int) -> None:
        self.weights: Weights = OrderedDict()
        self._generator = torch.Generator().manual_seed(seed)

    def conv(self, name: str, c_out: int, c_in: int, kernel: list[int], bias: bool = True) -> None:
        self._draw(f"{name}.weight", c_out, c_in, *kernel)
        if bias:
            self._draw(f"{name}.bias", c_out)

    def transposed(self, name: str, c_in: int, c_out: int, kernel: list[int]) -> None:
        self._draw(f"{name}.weight", c_in, c_out, *kernel)
        self._draw(f"{name}.bias", c_out)

    def norm(self, name: str, channels: int) -> None:
        self._draw(f"{name}.weight", channels)
        self._draw(f"{name}.bias", channels)

    def _draw(self, name: str, *shape: int) -> None:
        self.weights[name] = torch.randn(shape, generator=self._generator) / 3


# STU-Net -----------------------------------------------------------------------------------------


def stunet_weights(
    width: int = 8, depth: int = 1, in_channels: int = 1, classes: int = 105
) -> Weights:
    drawn = Drawn(1)
    channels = [width * m for m in (1, 2, 4, 8, 16, 16)]

    def stage(name: str, c_in: int, c_out: int) -> None:
        for block in range(depth):
            key = f"{name}.{block}"
            drawn.conv(f"{key}.conv1", c_out, c_out if block else c_in, [3, 3, 3])
            drawn.norm(f"{key}.norm1", c_out)
            drawn.conv(f"{key}.conv2", c_out, c_out, [3, 3, 3])
            drawn.norm(f"{key}.norm2", c_out)
            if block == 0:
                drawn.conv(f"{key}.conv3", c_out, c_in, [1, 1, 1])

    for s, c_out in enumerate(channels):
        stage(f"conv_blocks_context.{s}", channels[s - 1] if s else in_channels, c_out)
    for u in range(5):
        coarse, fine = channels[5 - u], channels[4 - u]
        drawn.conv(f"upsample_layers.{u}.conv", fine, coarse, [1, 1, 1])
        stage(f"conv_blocks_localization.{u}", 2 * fine, fine)
        drawn.conv(f"seg_outputs.{u}", classes, fine, [1, 1, 1])
    return drawn.weights


def v1_plans(**changes: Any) -> dict[str, Any]:
    """As the released `.model.pkl` files have them."""
    own = {
        "batch_size": 2,
        "num_pool_per_axis": [4, 4, 5],
        "patch_size": np.array([128, 128, 128]),
        "median_patient_size_in_voxels": np.array([228, 228, 240]),
        "current_spacing": np.array([1.5, 1.5, 1.5]),
        "original_spacing": np.array([1.5, 1.5, 1.5]),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": RELEASED_STRIDES,
        "conv_kernel_sizes": [[3, 3, 3]] * 6,
    }
    plans = {
        "num_stages": 1,
        "num_modalities": 1,
        "modalities": {0: "nonCT"},
        "normalization_schemes": OrderedDict([(0, "nonCT")]),
        "num_classes": 104,
        "all_classes": list(range(1, 105)),
        "use_mask_for_norm": OrderedDict([(0, False)]),
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "dataset_properties": {"intensityproperties": None},
        "plans_per_stage": {0: own | {k: v for k, v in changes.items() if k in own}},
    }
    return plans | {k: v for k, v in changes.items() if k not in own}


def write_v1(
    path: Path, weights: Weights, plans: dict[str, Any] | None = None, stage: int = 0
) -> Path:
    """`NAME.model` and `NAME.model.pkl`."""
    momentum = {"momentum_buffer": torch.zeros(4)}
    checkpoint = {
        "epoch": 4000,
        "state_dict": weights,
        "optimizer_state_dict": {"state": {0: momentum}, "param_groups": [{"lr": 0.01}]},
        "lr_scheduler_state_dict": None,
        "plot_stuff": ([np.float64(0.5)], [np.float32(0.25)], [], []),
        "best_stuff": (np.float64(1.5), None, np.float64(2.5)),
        "amp_grad_scaler": {"scale": 65536.0},
    }
    torch.save(checkpoint, path)
    record = OrderedDict(
        init=("", 0, "", "", False, stage, True, False, True),
        name="STUNetTrainer_small",
        plans=v1_plans() if plans is None else plans,
    )
    path.with_name(path.name + ".pkl").write_bytes(pickle.dumps(record))
    return path


# nnU-Net v2 --------------------------------------------------------------------------------------


def unet_weights(residual: bool, in_channels: int = 2, classes: int = 3) -> Weights:
    """Of PlainConvUNet or ResidualEncoderUNet, the names of tensors stored twice included."""
    drawn = Drawn(2)

    def conv_norm(name: str, c_in: int, c_out: int, kernel: list[int], bias: bool = True) -> None:
        drawn.conv(f"{name}.conv", c_out, c_in, kernel, bias)
        drawn.norm(f"{name}.norm", c_out)

    c_in = in_channels
    if residual:
        conv_norm("encoder.stem.convs.0", in_channels, CHANNELS[0], KERNELS[0])
        c_in = CHANNELS[0]
    for s, c_out in enumerate(CHANNELS):
        for i in range(ENCODER[s]):
            if residual:
                block = f"encoder.stages.{s}.blocks.{i}"
                conv_norm(f"{block}.conv1", c_in, c_out, KERNELS[s])
                conv_norm(f"{block}.conv2", c_out, c_out, KERNELS[s])
                if c_in != c_out:
                    place = int(i == 0 and max(STRIDES[s]) > 1)  # behind the pooling
                    conv_norm(f"{block}.skip.{place}", c_in, c_out, [1, 1, 1], bias=False)
            else:
                conv_norm(f"encoder.stages.{s}.0.convs.{i}", c_in, c_out, KERNELS[s])
            c_in = c_out
    for u, depth in enumerate(DECODER):
        s = len(CHANNELS) - 2 - u
        fine = CHANNELS[s]
        for i in range(depth):
            name = f"decoder.stages.{u}.convs.{i}"
            conv_norm(name, fine if i else 2 * fine, fine, KERNELS[s])
        drawn.transposed(f"decoder.transpconvs.{u}", CHANNELS[s + 1], fine, STRIDES[s + 1])
        drawn.conv(f"decoder.seg_layers.{u}", classes, fine, [1, 1, 1])
    return _with_duplicates(drawn.weights)


def _with_duplicates(weights: Weights) -> Weights:
    doubled: Weights = OrderedDict()
    for name, tensor in weights.items():
        doubled[name] = tensor
        for part, number in (("conv", 0), ("norm", 1)):
            if f".{part}." in name:
                doubled[name.replace(f".{part}.", f".all_modules.{number}.")] = tensor
    for name in [name for name in doubled if name.startswith("encoder.")]:
        doubled[f"decoder.{name}"] = doubled[name]
    return doubled


def architecture(residual: bool, **changes: Any) -> dict[str, Any]:
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    options = {
        "n_stages": len(CHANNELS),
        "features_per_stage": CHANNELS,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": KERNELS,
        "strides": STRIDES,
        "n_blocks_per_stage" if residual else "n_conv_per_stage": ENCODER,
        "n_conv_per_stage_decoder": DECODER,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": options | changes,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def v2_plans(network: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A plan with one configuration that others inherit from; `changes` go where they belong."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 32, 32],
        "median_image_size_in_voxels": [20.0, 40.0, 40.0],
        "spacing": [3.0, 1.5, 1.25],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "batch_dice": False,
    }
    configuration |= {"architecture": network} if network is not None else {}
    plans = {
        "dataset_name": "Dataset007_Small",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": CT, "1": CT},
    }
    plans |= {k: v for k, v in changes.items() if k in plans}
    configuration |= {k: v for k, v in changes.items() if k not in plans}
    configurations = {"3d_fullres": configuration, "3d_small": {"inherits_from": "3d_fullres"}}
    return plans | {"configurations": configurations}


def stunet_v2_plans(**changes: Any) -> dict[str, Any]:
    """A plan in the form of nnU-Net 2.2, which STU-Net's v2 trainer was written for."""
    options = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": [2] * 6,
        "n_conv_per_stage_decoder": [2] * 5,
        "num_pool_per_axis": [4, 4, 5],
        "pool_op_kernel_sizes": [[1, 1, 1], *RELEASED_STRIDES],
        "conv_kernel_sizes": [[3, 3, 3]] * 6,
        "patch_size": [128, 128, 128],
        "spacing": [1.5, 1.5, 1.5],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
    }
    return v2_plans(**(options | changes))


def v2_dataset(channels: int = 2, labels: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": "Small",
        "channel_names": dict(zip("01", ("CT", "PET"), strict=True))
        if channels == 2
        else {"0": "CT1"},
        "labels": LABELS if labels is None else labels,
        "numTraining": 12,
        "file_ending": ".nii.gz",
    }


def write_v2(
    folder: Path,
    weights: Weights,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    init_plans: dict[str, Any] | None = None,
) -> Path:
    """The folder of a trained model with fold 0; returns it."""
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    checkpoint = {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(4)}}},
        "grad_scaler_state": {"scale": 65536.0},
        "logging": {"mean_fg_dice": [np.float64(0.5)], "epoch_end_timestamps": [1.7e9]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {
            "plans": init_plans or plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": dataset,
            "device": torch.device("cuda", 0),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def write_raw(folder: Path, cases: int = 3) -> Path:
    """A raw data set of nnU-Net: CT, two boxes, stored as LPS."""
    random = np.random.default_rng(0)
    label = np.zeros((40, 36, 20), np.uint8)
    label[8:20, 8:24, 4:14], label[24:34, 10:22, 6:16] = 1, 2
    affine = np.diag([-1.25, -1.5, 3.0, 1.0])
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(cases):
        case = f"case_{number:03d}"
        image = (random.normal(-80, 30, label.shape) + 120 * label).astype(np.int16)
        for array, file in ((image, f"imagesTr/{case}_0000"), (label, f"labelsTr/{case}")):
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{file}.nii.gz")
    dataset = v2_dataset(1) | {"channel_names": {"0": "CT"}, "numTraining": cases}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder
