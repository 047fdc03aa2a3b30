"""What nnU-Net v2 and MONAI do in a turn. Runs inside the peers' environment; imports none of ours.

nnU-Net prints a page when it is imported without its three folders; nothing here reads them.
"""

import os

for _name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(_name, "unused")
