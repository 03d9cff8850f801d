"""Longtail: a two-stage recommender that keeps the long tail alive."""

import os

# Threads of OpenMP (torch, XGBoost) that spin while they wait save a training a fifteenth of its time if nothing else
# runs. Elsewhere they spin away the core that the thread they wait for needs, and it takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
