"""What a backend reports of a run."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """Losses (float64, one a step that was begun), completed steps, and why the run ended early.

    `stopped` is None, "loss" (a loss was not finite; its update was not made) or "update" (an update was not finite;
    the parameters concerned kept their values). `trial`: numbers of workers are being compared, so the next run should
    be short.
    """

    losses: np.ndarray
    done: int
    stopped: str | None
    trial: bool = False
