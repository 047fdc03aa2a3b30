"""Plans of nnU-Net v2: `plans.json`."""

from __future__ import annotations

from typing import Any

from stunet.convert.plan import Keys, Plan, check_size, checked, ct_channel, steps, triple
from stunet.errors import CheckpointError
from stunet.types import Channel, Scheme

SCHEMES: dict[str, Scheme] = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "rescale",
    "NoNormalization": "none",
}
# What our resampling is equal to; orders per axis follow from the spacing.
IMAGE_RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
LOGIT_RESAMPLING = IMAGE_RESAMPLING | {"order": 1}
RESAMPLING = "resample_data_or_seg_to_shape"
OLD_NAMES = {
    "conv_kernel_sizes": "kernel_sizes",
    "n_conv_per_stage_decoder": "n_conv_per_stage_decoder",
    "num_pool_per_axis": "num_pool_per_axis",
}
REORIENTING_READER = "NibabelIOWithReorient"


def parse_v2(plans: Keys, name: str | None) -> Plan:
    """Return the plan of a configuration; None: of the only one.

    Raises:
        CheckpointError: As `training_plan.parse_plan`.
    """
    if name is None:
        names = list(plans["configurations"])
        if len(names) != 1:
            raise CheckpointError(
                f"convert {plans.place}: has the configurations "
                f"{', '.join(names)} and the checkpoint does not say which is "
                "its own; give --configuration"
            )
        name = names[0]
    configuration = _inherited(plans, name)
    if configuration.record.get("previous_stage"):
        raise configuration.refuse(f"{name} is the second stage of a cascade")
    check_size(configuration["patch_size"], name, configuration)
    architecture = _architecture(configuration)
    strides = architecture["strides"]
    if any(edge != 1 for edge in strides[0]):
        raise configuration.refuse(f"the first stage has stride {strides[0]}")
    _check_preprocessing(configuration)
    plan = Plan(
        spacing_mm=triple(configuration, "spacing", float),
        patch_size=triple(configuration, "patch_size", int),
        strides=tuple(steps(strides[1:], configuration.place)),
        channels=_channels_v2(plans, configuration),
        transpose=triple(plans, "transpose_forward", int),
        reorients=plans["image_reader_writer"] == REORIENTING_READER,
        generation="nnU-Net v2",
        architecture=architecture,
    )
    return checked(plan, plans.place)


def _inherited(plans: Keys, name: str) -> Keys:
    """A configuration with all that it inherits."""
    configurations = plans.below("configurations")
    merged: dict[str, Any] = {}
    parent: str | None = name
    seen: set[str] = set()
    while parent is not None:
        if parent in seen:
            raise CheckpointError(f"convert {plans.place}: {parent!r} inherits from itself")
        seen.add(parent)
        own = configurations.below(parent).record
        merged = {**own, **{k: v for k, v in merged.items() if k != "inherits_from"}}
        parent = own.get("inherits_from")
    return Keys(merged, f"{plans.place} ({name})")


def _architecture(configuration: Keys) -> dict[str, Any]:
    """Class name and options of the network; plans before nnU-Net 2.4 spread them."""
    if "architecture" in configuration.record:
        stated = configuration.below("architecture")
        kind = str(stated["network_class_name"]).rpartition(".")[2]
        stages = stated.below("arch_kwargs")
        return {**stages.record, "class": kind, "strides": stages["strides"]}
    found = configuration.record
    options = {new: found[old] for old, new in OLD_NAMES.items() if old in found}
    name = found.get("UNet_class_name")
    if name is not None:  # STU-Net's weights do not need it
        widest, base = (
            configuration["unet_max_num_features"],
            configuration["UNet_base_num_features"],
        )
        encoder = configuration["n_conv_per_stage_encoder"]
        depth = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
        features = [min(base * 2**stage, widest) for stage in range(len(encoder))]
        options |= {"class": name, "features_per_stage": features, depth: encoder}
    return options | {"strides": configuration["pool_op_kernel_sizes"]}


def _check_preprocessing(configuration: Keys) -> None:
    preprocessor = configuration.record.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        raise configuration.refuse(f"preprocessor {preprocessor!r}")
    for kind, options in (("data", IMAGE_RESAMPLING), ("probabilities", LOGIT_RESAMPLING)):
        name = configuration[f"resampling_fn_{kind}"]
        given = configuration[f"resampling_fn_{kind}_kwargs"]
        if name != RESAMPLING or options | given != options:
            raise configuration.refuse(f"resampling_fn_{kind} is {name} with {given}")


def _channels_v2(plans: Keys, configuration: Keys) -> tuple[Channel, ...]:
    schemes = configuration["normalization_schemes"]
    masks = configuration["use_mask_for_norm"]
    channels = []
    for number, (name, masked) in enumerate(zip(schemes, masks, strict=True)):
        if name not in SCHEMES:
            raise configuration.refuse(f"channel {number} is normalised by {name}")
        if masked and SCHEMES[name] == "zscore":
            raise configuration.refuse(
                f"channel {number} is normalised over nonzero voxels only (use_mask_for_norm)"
            )
        if SCHEMES[name] == "ct":
            key = "foreground_intensity_properties_per_channel"
            if key not in plans.record:  # plans of the first releases
                key = "foreground_intensity_properties_by_modality"
            channels.append(ct_channel(number, plans.below(key).below(str(number)), "std"))
        else:
            channels.append(Channel(f"channel {number}", SCHEMES[name]))
    return tuple(channels)
