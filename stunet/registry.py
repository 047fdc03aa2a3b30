"""Which networks exist: an explicit table from name to specification.

Imports no torch until a network is built. A further system adds one line to `MODELS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stunet.errors import ConfigError
from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig, ModelSpec

if TYPE_CHECKING:
    from torch import nn

MODELS = {
    "stunet": "stunet.models.spec:STUNET",
    "plain_conv_unet": "stunet.models.unet_spec:PLAIN_CONV_UNET",
    "residual_encoder_unet": "stunet.models.unet_spec:RESIDUAL_ENCODER_UNET",
}


def model_spec(name: str) -> ModelSpec:
    """Look a network up.

    Raises:
        ConfigError: The name is not in `MODELS`.
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"model.name: '{name}' is unknown (known: {', '.join(MODELS)}){hint}")
    return _resolve(MODELS[name])


def build_model(config: ModelConfig, seed: int = 0) -> nn.Module:
    """Build the network of a config with initial weights drawn from `seed`.

    To load weights instead, build under `torch.device("meta")`, which allocates nothing, and call
    `load_state_dict(weights, assign=True)`.

    Raises:
        ConfigError: The config does not describe a known network.
    """
    return _resolve(model_spec(config.name).builder)(config, seed)


@dataclass(frozen=True)
class ModelRow:
    """One line of `stunet models`: 1 channel, 105 classes, 128^3 voxels, isotropic strides.

    105 classes are TotalSegmentator's 104 and background, as in the published counts. `flops` are
    of one training forward pass, 2 per multiply-add.
    """

    name: str
    size: str
    width: int
    depth: int
    parameters: int
    flops: int


def model_rows() -> tuple[ModelRow, ...]:
    """Every size of every network, from closed forms."""
    rows = []
    for name in MODELS:
        spec = model_spec(name)
        for size, dials in spec.sizes.items():
            config = ModelConfig(
                name=name, size=size, in_channels=1, classes=105, strides=ISOTROPIC_STRIDES
            )
            parameters = spec.parameter_count(config)
            flops = spec.forward_flops(config, (128, 128, 128))
            rows.append(ModelRow(name, size, dials.width, dials.depth, parameters, flops))
    return tuple(rows)


def _resolve(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
