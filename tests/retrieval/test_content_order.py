"""Content vectors are the same bits in every process: the trainer and the server each compute with theirs."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import hashlib, pandas as pd
from longtail.events import Catalogue
from longtail.retrieval.content import content_matrix
words = ["red", "blue", "lamp", "cup", "tall", "oak", "tin", "mini"]
items = [{"item_id": f"i{i}", "title": " ".join(words[j] for j in range(8) if (i * 37 >> j) & 1)} for i in range(60)]
found = content_matrix(Catalogue.from_frame(pd.DataFrame(items)), max_share=0.9)
print(hashlib.sha256(found.indices.tobytes() + found.data.tobytes()).hexdigest())
"""


def test_content_does_not_depend_on_the_process():
    seen = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        seen.add(done.stdout)
    assert len(seen) == 1 and seen != {""}
