"""The losses by name: each in the file of its kind, all described in `loss`."""

from . import binary_losses, class_losses, regression_losses
from .loss import Loss

LOSSES: dict[str, type[Loss]] = {
    name: kind for module in (regression_losses, binary_losses, class_losses) for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, Loss) and kind is not Loss and not name.startswith("_")}
