"""The reference: what training is, in plain torch, on one process and the whole batch at once."""

import torch
from tiny_problem import GLOBAL_BATCH, TinyNet, loss_function, make_batch


def train_plainly(
    optimizer_name: str, steps: int, *, bf16: bool = False, broken: int | None = None
) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """Losses, gradient norms and final weights of `steps` steps with nnU-Net's hyper-parameters.

    A step whose gradient is not finite is skipped, and has no loss worth reporting.
    """
    net = TinyNet(seed=0)
    optimizer: torch.optim.Optimizer
    if optimizer_name == "adamw":
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=3e-5)
    else:
        optimizer = torch.optim.SGD(
            net.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (1 - t / steps) ** 0.9)
    losses, norms = [], []
    for step in range(steps):
        batch = make_batch(list(range(step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH)), broken)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(batch.image_bcdhw)
        loss = loss_function(logits, batch.label_bdhw)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 12.0)
        if torch.isfinite(norm):
            optimizer.step()
            losses.append(loss.item())
            norms.append(norm.item())
        schedule.step()
    return losses, norms, {name: value.detach() for name, value in net.state_dict().items()}
