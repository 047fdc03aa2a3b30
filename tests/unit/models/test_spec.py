import json
from dataclasses import asdict

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stunet.errors import ConfigError
from stunet.models.spec import (
    ISOTROPIC_STRIDES,
    STUNET_SIZES,
    ModelConfig,
    stage_shapes,
    stunet_convolutions,
    stunet_forward_flops,
    stunet_parameter_count,
)
from stunet.registry import build_model
from stunet.types import Size3

RELEASED_STRIDES: tuple[Size3, ...] = ((2, 2, 2),) * 4 + ((1, 1, 2),)
PUBLISHED = {"S": 14_596_941, "B": 58_262_669, "L": 440_302_605, "H": 1_457_326_221}


def config(size: str = "S", in_channels: int = 1, classes: int = 105) -> ModelConfig:
    return ModelConfig(
        size=size, in_channels=in_channels, classes=classes, strides=ISOTROPIC_STRIDES
    )


@pytest.mark.parametrize(("size", "count"), PUBLISHED.items())
def test_published_parameter_counts(size: str, count: int) -> None:
    assert stunet_parameter_count(config(size)) == count


@pytest.mark.parametrize("size", STUNET_SIZES)
@pytest.mark.parametrize(("in_channels", "classes"), [(1, 105), (4, 5)])
def test_counts_equal_those_of_the_network(size: str, in_channels: int, classes: int) -> None:
    described = config(size, in_channels, classes)
    with torch.device("meta"):
        model = build_model(described)
        image = torch.empty(1, in_channels, 64, 64, 64)
    assert sum(p.numel() for p in model.parameters()) == stunet_parameter_count(described)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert counter.get_total_flops() == stunet_forward_flops(described, (64, 64, 64))


@pytest.mark.parametrize(
    ("size", "per_class", "per_channel"),
    [("S", 501, 448), ("B", 997, 896), ("L", 1989, 1792), ("H", 2981, 2688)],
)
def test_increment_per_class_and_channel(size: str, per_class: int, per_channel: int) -> None:
    base = stunet_parameter_count(config(size, 1, 2))
    assert stunet_parameter_count(config(size, 1, 12)) - base == 10 * per_class
    assert stunet_parameter_count(config(size, 4, 2)) - base == 3 * per_channel


def test_parameters_by_part() -> None:
    parts = {"encoder": 0, "upsampling": 0, "decoder": 0, "head": 0}
    for conv in stunet_convolutions(config("H")):
        parts[conv.part] += conv.parameters
    assert list(parts.values()) == [852_780_384, 3_928_992, 600_303_840, 313_005]


@pytest.mark.parametrize(
    ("size", "tera_macs"), [("S", 0.1294), ("B", 0.5062), ("L", 3.8035), ("H", 12.5934)]
)
def test_published_multiply_adds(size: str, tera_macs: float) -> None:
    """The published code up-samples first: its 1x1x1 convolutions see the finer grid."""
    described = config(size)
    shapes = stage_shapes((128, 128, 128), described.strides)
    voxels = [z * y * x for z, y, x in shapes]
    extra = sum(
        conv.flops_per_voxel * (voxels[conv.stage - 1] - voxels[conv.stage])
        for conv in stunet_convolutions(described)
        if conv.part == "upsampling"
    )
    macs = (stunet_forward_flops(described, (128, 128, 128)) + extra) / 2
    assert macs / 1e12 == pytest.approx(tera_macs, abs=5e-5)


def test_config_survives_json() -> None:
    described = ModelConfig(size="B", in_channels=4, classes=5, strides=RELEASED_STRIDES)
    assert ModelConfig(**json.loads(json.dumps(asdict(described)))) == described


@pytest.mark.parametrize(
    ("strides", "coarsest"), [(ISOTROPIC_STRIDES, (4, 4, 4)), (RELEASED_STRIDES, (8, 8, 4))]
)
def test_coarsest_stage(strides: tuple[Size3, ...], coarsest: Size3) -> None:
    assert stage_shapes((128, 128, 128), strides)[-1] == coarsest


@pytest.mark.parametrize("patch", [(64, 64, 48), (0, 32, 32), (16, 16, 16)])
def test_indivisible_patch_names_the_divisor(patch: Size3) -> None:
    with pytest.raises(ConfigError, match=r"not divisible by \(32, 32, 32\)"):
        stage_shapes(patch, ISOTROPIC_STRIDES)


def test_patch_that_leaves_one_voxel_names_patch_and_strides() -> None:
    with pytest.raises(ConfigError, match=r"patch \(16, 16, 32\) with strides .* one voxel"):
        stage_shapes((16, 16, 32), RELEASED_STRIDES)
    assert stage_shapes((32, 16, 32), RELEASED_STRIDES)[-1] == (2, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, r"model\.in_channels: 0"),
        ({"classes": 0}, r"model\.classes: 0"),
        ({"strides": ((2, 2),) * 5}, r"model\.strides: .*triples"),
        ({"strides": ((2, 2, 0),) * 5}, r"model\.strides: .*triples"),
        ({"size": "M"}, r"model\.size: 'M' .* XS, S, B, L, H"),
        ({"strides": ((2, 2, 2),) * 4}, r"model\.strides: STU-Net takes 5, got 4"),
    ],
)
def test_bad_config_is_one_line(options: dict, message: str) -> None:
    good = {"in_channels": 1, "classes": 2, "strides": ISOTROPIC_STRIDES}
    with pytest.raises(ConfigError, match=message) as caught:
        stunet_parameter_count(ModelConfig(**(good | options)))
    assert "\n" not in str(caught.value)
