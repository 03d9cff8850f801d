"""One of several processes that train one two-tower: `torchrun -m components.train_two_tower.process SHOP OUT CONFIG`.

SHOP is an imported shop, OUT the folder of the tower, CONFIG a file with the training configuration as JSON; all
processes see the same ones.
"""

import sys
from pathlib import Path

from longtail import steps
from longtail.cli.terminal import one_line_errors
from longtail.training import TrainingConfig

if __name__ == "__main__":
    with one_line_errors():
        if len(sys.argv) != 4:
            sys.exit(__doc__)
        shop, out, config = map(Path, sys.argv[1:])
        steps.train_two_tower(shop, out, TrainingConfig.parse(config.read_text()))
