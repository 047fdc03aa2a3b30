"""Plans of nnU-Net v1, as `.model.pkl` and `plans.pkl` hold them."""

from __future__ import annotations

from stunet.convert.plan import Keys, Plan, check_size, checked, ct_channel, steps, triple
from stunet.errors import CheckpointError
from stunet.types import Channel, Scheme

SCHEMES: dict[str, Scheme] = {"CT": "ct", "nonCT": "zscore", "noNorm": "none"}


def parse_v1(plans: Keys, stage: int | None) -> Plan:
    """Return the plan of a stage; None: of the only one.

    Raises:
        CheckpointError: As `training_plan.parse_plan`.
    """
    stages = plans.below("plans_per_stage")
    if stage is None:
        if len(stages.record) != 1:
            raise CheckpointError(
                f"convert {plans.place}: has {len(stages.record)} stages and the checkpoint does "
                "not say which is its own"
            )
        stage = int(next(iter(stages.record)))
    own = stages.below(str(stage))
    check_size(own["patch_size"], f"stage {stage}", own)
    plan = Plan(
        spacing_mm=triple(own, "current_spacing", float),
        patch_size=triple(own, "patch_size", int),
        strides=tuple(steps(own["pool_op_kernel_sizes"], plans.place)),
        channels=_channels_v1(plans),
        transpose=triple(plans, "transpose_forward", int),
        reorients=False,
        generation="nnU-Net v1",
        architecture={"num_pool_per_axis": own["num_pool_per_axis"]},
    )
    return checked(plan, plans.place)


def _channels_v1(plans: Keys) -> tuple[Channel, ...]:
    schemes = plans.below("normalization_schemes").record
    masks = plans.below("use_mask_for_norm").record
    channels = []
    for number in range(len(schemes)):
        name = schemes[str(number)]
        if name not in SCHEMES:
            raise plans.refuse(f"channel {number} is normalised by {name!r}")
        if masks.get(str(number)):
            raise plans.refuse(
                f"channel {number} is normalised over nonzero voxels only (use_mask_for_norm)"
            )
        if SCHEMES[name] == "ct":
            properties = plans.below("dataset_properties").below("intensityproperties")
            channels.append(ct_channel(number, properties.below(str(number)), "sd"))
        else:
            channels.append(Channel(f"channel {number}", SCHEMES[name]))
    return tuple(channels)
