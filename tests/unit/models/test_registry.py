import subprocess
import sys

import pytest
import torch

from stunet.errors import ConfigError
from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig
from stunet.registry import MODELS, build_model, model_rows, model_spec


def test_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"'stu-net' is unknown \(known: stunet, [^)]*\).*'stunet'"
    ):
        model_spec("stu-net")
    with pytest.raises(
        ConfigError, match=r"known: stunet, plain_conv_unet, residual_encoder_unet\)$"
    ):
        model_spec("vae")


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_resolves_to_its_own_name(name: str) -> None:
    assert model_spec(name).name == name


def test_rows_of_the_table() -> None:
    rows = {row.size: row for row in model_rows()}
    assert list(rows) == ["XS", "S", "B", "L", "H"]
    assert (rows["L"].width, rows["L"].depth, rows["L"].parameters) == (64, 2, 440_302_605)


def test_table_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from stunet.registry import model_rows; model_rows(); "
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_build_on_meta_then_assign_weights() -> None:
    config = ModelConfig(size="XS", in_channels=1, classes=3, strides=ISOTROPIC_STRIDES)
    weights = build_model(config, seed=3).state_dict()
    with torch.device("meta"):
        model = build_model(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.load_state_dict(weights, assign=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])
