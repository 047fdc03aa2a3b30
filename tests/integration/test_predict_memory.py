"""What the prediction of a many-class scan takes beyond network and scan, measured from outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
from pathlib import Path
import numpy as np
import psutil
import torch
from torch import nn
from stunet.inference.predictor import Predictor
from stunet.io.volume import volume_of_array
from stunet.types import Channel, Preprocessing

torch.set_num_threads(1)
torch.manual_seed(0)
CLASSES, FEATURES = 105, 16

class Cheap(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Conv3d(1, FEATURES, 1), nn.Conv3d(FEATURES, CLASSES, 1)
    def features(self, x):
        return self.mix(x).sin_()
    def forward(self, x):
        return self.head(self.features(x))

def predictor(patch):
    preprocessing = Preprocessing((1.5, 1.5, 1.5), patch, (Channel("CT", "zscore"),))
    labels = {"background": 0} | {f"class {k}": k for k in range(1, CLASSES)}
    return Predictor(Cheap().eval(), preprocessing, labels)

affine = np.diag([0.7, 0.7, 1.0, 1])
values = np.random.default_rng(0).integers(-1000, 1000, (240, 240, 150), dtype=np.int16)
predictor((8, 8, 8)).predict_array(values[:9, :9, :9], affine)  # loads and compiles everything
scan = volume_of_array(values, affine)
ready = predictor((64, 64, 64))
before = psutil.Process().memory_info().rss
labels = ready.predict_volume(scan)
assert labels.shape == (150, 240, 240) and len(np.unique(labels)) > 5
# Not ru_maxrss: that remembers the process which started this one.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = 1024 * int(status["VmHWM"].split()[0])
print((peak - before) // 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_is_that_of_a_window_and_a_slab() -> None:
    """100 x 112 x 112 to 150 x 240 x 240: all classes would take 0.5 GB and 3.6 GB."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 200  # MiB
