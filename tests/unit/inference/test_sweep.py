import pytest
import torch

from stunet.errors import VolumeError
from stunet.inference.segment import segment
from stunet.inference.sliding_window import WindowOptions, pad_to_patch, plan_windows
from stunet.inference.sweep import Network, sweep_planes


def planes_of(body, image, patch, options=None, **keywords) -> list[torch.Tensor]:
    options = options or WindowOptions()
    padded, inner = pad_to_patch(image, patch)
    windows = plan_windows(padded, patch, options.step)
    return list(sweep_planes(Network(body), padded, windows, inner, options, **keywords))


def test_no_gradient_is_kept_and_two_runs_agree_to_the_bit():
    model = torch.nn.Conv3d(1, 2, 3, padding=1)
    image = torch.randn((1, 9, 8, 11), generator=torch.Generator().manual_seed(0))
    options = WindowOptions(batch=2)
    first, again = (torch.stack(planes_of(model, image, (4, 4, 4), options)) for _ in range(2))
    assert not first.requires_grad
    assert torch.equal(first, again)


def test_half_precision_outputs_are_summed_in_single():
    image = torch.randn((1, 12, 6, 6), generator=torch.Generator().manual_seed(0))
    planes = planes_of(lambda x: x.bfloat16(), image, (4, 4, 4))
    logits = torch.stack(planes, dim=1)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, image.bfloat16().float(), rtol=1e-6, atol=1e-6)


def test_the_model_never_sees_more_than_a_batch_of_windows_and_progress_counts_them():
    seen, told = [], []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[0])
        return x

    planes_of(
        model,
        torch.zeros((1, 8, 4, 12)),
        (4, 4, 4),
        WindowOptions(batch=4),
        on_window=lambda *args: told.append(args),
    )
    assert seen == [4, 4, 4, 3]
    assert told == [(4, 15), (8, 15), (12, 15), (15, 15)]


def test_planes_come_out_before_later_windows_are_run():
    runs = []

    def model(x: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        return x

    padded = torch.zeros((1, 40, 4, 4))
    windows = plan_windows(padded, (4, 4, 4), 0.5)
    inner = (slice(0, 40), slice(0, 4), slice(0, 4))
    planes = sweep_planes(Network(model), padded, windows, inner, WindowOptions())
    next(planes)
    assert len(runs) == 2  # of 19: the first plane is finished once the second window has begun
    assert len(list(planes)) == 39


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_breaks_is_told(value):
    def model(x: torch.Tensor) -> torch.Tensor:
        y = torch.cat((x, x), dim=1)
        y[:, :, 2, 2, 2] = value
        return y

    with pytest.raises(VolumeError, match="not finite"):
        segment(Network(model), torch.zeros((1, 8, 8, 8)), (4, 4, 4))


def test_a_network_too_large_for_the_host_is_not_run_twice():
    runs = []

    def model(x: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        if len(runs) == 2:
            raise torch.OutOfMemoryError
        return x

    with pytest.raises(torch.OutOfMemoryError):
        segment(Network(model), torch.zeros((1, 8, 8, 8)), (4, 4, 4))
    assert len(runs) == 2
