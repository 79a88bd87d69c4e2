"""A callback by which a training lasts as long as a test needs it to."""

import time
from pathlib import Path
from typing import Any

import lightning


class SlowSteps(lightning.Callback):
    """Every step takes half a second longer while the file ``path`` exists."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_start(self, *_: Any) -> None:
        if self.path.exists():
            time.sleep(0.5)
