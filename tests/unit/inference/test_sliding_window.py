import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stunet.errors import ConfigError
from stunet.inference.sliding_window import sliding_window_logits, window_starts

sizes = st.tuples(*[st.integers(1, 40)] * 3)


@given(patch=sizes, extra=st.tuples(*[st.integers(0, 90)] * 3), step=st.floats(0.05, 1))
def test_windows_cover_the_volume_and_never_leave_it(patch, extra, step):
    shape = tuple(p + e for p, e in zip(patch, extra, strict=True))
    for starts, length, n in zip(window_starts(shape, patch, step), shape, patch, strict=True):
        covered = {i for a in starts for i in range(a, a + n)}
        assert covered == set(range(length))
        assert list(starts) == sorted(set(starts))


@pytest.mark.parametrize("step", [0.0, -0.5, 1.01, float("nan")])
def test_step_outside_its_range_is_refused(step):
    with pytest.raises(ConfigError, match="step"):
        window_starts((8, 8, 8), (4, 4, 4), step)


def test_no_gradient_is_kept_and_two_runs_agree_to_the_bit():
    model = torch.nn.Conv3d(1, 2, 3, padding=1)
    image = torch.randn((1, 9, 8, 11), generator=torch.Generator().manual_seed(0))
    first = sliding_window_logits(model, image, (4, 4, 4), batch=2)
    assert not first.requires_grad
    assert torch.equal(first, sliding_window_logits(model, image, (4, 4, 4), batch=2))


def test_half_precision_logits_are_summed_in_single():
    image = torch.randn((1, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    logits = sliding_window_logits(lambda x: x.bfloat16(), image, (4, 4, 4))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, image.bfloat16().float(), rtol=1e-6, atol=1e-6)


def test_the_model_never_sees_more_than_a_batch_of_windows():
    seen = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[0])
        return x

    sliding_window_logits(model, torch.zeros((1, 8, 4, 12)), (4, 4, 4), batch=4)
    assert seen == [4, 4, 4, 3]
