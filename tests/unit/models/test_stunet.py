import pytest
import torch

from stunet.errors import ConfigError
from stunet.models.spec import ISOTROPIC_STRIDES, ModelConfig
from stunet.models.stunet import STUNet, build_stunet
from stunet.types import Size3

RELEASED_STRIDES: tuple[Size3, ...] = ((2, 2, 2),) * 4 + ((1, 1, 2),)


def build(strides: tuple[Size3, ...] = RELEASED_STRIDES, in_channels: int = 1) -> STUNet:
    config = ModelConfig(size="XS", in_channels=in_channels, classes=3, strides=strides)
    return build_stunet(config, seed=0)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("strides", [ISOTROPIC_STRIDES, RELEASED_STRIDES])
def test_training_returns_five_scales_and_evaluation_the_first(
    strides: tuple[Size3, ...],
) -> None:
    model, image = build(strides), noise(1, 1, 32, 32, 64)
    with torch.no_grad():
        outputs = model.train()(image)
        single = model.eval()(image)
    assert [tuple(o.shape[1:]) for o in outputs] == [
        (3, 32, 32, 64), (3, 16, 16, 32), (3, 8, 8, 16), (3, 4, 4, 8), (3, 2, 2, 4)
    ]  # fmt: skip
    assert torch.equal(single, outputs[0])


@pytest.mark.parametrize(("training", "computed"), [(True, [0, 1, 2, 3, 4]), (False, [4])])
def test_evaluation_computes_one_head(training: bool, computed: list[int]) -> None:
    model = build().train(training)
    seen: list[int] = []
    for index, head in enumerate(model.seg_outputs):
        head.register_forward_hook(lambda *_, index=index: seen.append(index))
    with torch.no_grad():
        model(noise(1, 1, 32, 16, 32))
    assert seen == computed


def test_strides_are_not_in_the_weights() -> None:
    """Why a config without strides is refused: the wrong ones load without complaint."""
    released, isotropic = build(RELEASED_STRIDES).eval(), build(ISOTROPIC_STRIDES).eval()
    isotropic.load_state_dict(released.state_dict())
    image = noise(1, 1, 32, 32, 64)
    with torch.no_grad():
        right, wrong = released(image), isotropic(image)
    assert (right.argmax(1) != wrong.argmax(1)).float().mean() > 0.01


def test_two_samples_do_not_see_each_other() -> None:
    model, images = build().eval().double(), noise(2, 1, 32, 16, 32).double()
    with torch.no_grad():
        torch.testing.assert_close(model(images)[1:], model(images[1:]))


def test_bfloat16_autocast_stays_close() -> None:
    model, image = build().eval(), noise(1, 1, 32, 16, 32)
    with torch.no_grad():
        exact = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(image)
    assert (rough - exact).square().mean() < 0.01 * exact.square().mean()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 32, 16, 48), r"patch \(32, 16, 48\) is not divisible by \(16, 16, 32\)"),
        ((2, 1, 16, 16, 32), r"patch \(16, 16, 32\) with strides .* leaves one voxel"),
        ((1, 2, 32, 16, 32), "image has 2 channels, the network takes 1"),
    ],
)
def test_unfit_input_is_one_line(training: bool, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build().train(training)(torch.zeros(shape))
    assert "\n" not in str(caught.value)
