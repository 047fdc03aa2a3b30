"""What GPUs can do at most, by their data sheets: what training is measured and foretold by."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class GpuFacts:
    """A GPU as its data sheet has it.

    Attributes:
        memory_gib: As its driver counts.
        bf16_flops: As in `BF16_FLOPS`.
        bytes_per_s: Of its memory.
        link_bytes_per_s: To another GPU of the node, one way: NVLink, else PCIe 4.0 x16.
    """

    memory_gib: float
    bf16_flops: float
    bytes_per_s: float
    link_bytes_per_s: float


GPUS = {
    "B200": GpuFacts(178, BF16_FLOPS["B200"], 8.0e12, 900e9),
    "H200": GpuFacts(140, BF16_FLOPS["H200"], 4.8e12, 450e9),
    "H100": GpuFacts(80, BF16_FLOPS["H100"], 3.35e12, 450e9),
    "A100-80G": GpuFacts(80, BF16_FLOPS["A100"], 2.04e12, 300e9),
    "A100-40G": GpuFacts(40, BF16_FLOPS["A100"], 1.56e12, 300e9),
    "L40S": GpuFacts(45, BF16_FLOPS["L40S"], 0.864e12, 32e9),
    "A40": GpuFacts(45, BF16_FLOPS["A40"], 0.696e12, 32e9),
    "RTX4090": GpuFacts(24, BF16_FLOPS["RTX 4090"], 1.01e12, 32e9),
    "V100-32G": GpuFacts(32, BF16_FLOPS["V100"], 0.9e12, 150e9),
}
