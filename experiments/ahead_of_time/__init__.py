"""The training step compiled for devices that this machine does not have."""

import os
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[1]

os.environ["JAX_PLATFORMS"] = "cpu"  # arrays stay there; plug-ins must not look for a device
sys.path.append(str(EXPERIMENTS.parent))
