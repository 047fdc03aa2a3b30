"""What a GPU can compute at most: the measure of how well training uses it."""

from __future__ import annotations

# FLOP/s of dense bf16 matrix products with fp32 accumulation, without sparsity, as the makers' data
# sheets give them (V100: fp16, it has no bf16). Longer names first: "H100 PCIe" is no "H100".
BF16_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX A6000": 155e12,
    "V100": 125e12,
}


def peak_flops(device_name: str) -> float | None:
    """The peak of a GPU by the name that its driver gives, None if it is not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    for name, flops in BF16_FLOPS.items():
        if name in device_name:
            return flops
    return None
