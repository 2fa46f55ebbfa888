"""What a training run reports."""

from dataclasses import dataclass, field


@dataclass
class History:
    """One entry an epoch in each list; those of validation stay empty without validation data.

    A network of several outputs has a list for each of what `evaluate` finds, such as `val_NAME_loss`, besides.
    loss: mean of the training losses, each taken before its update. lr: learning rate of the epoch's last update.
    seconds: time of the epoch, validation apart.
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, logs):
        """Append what an epoch reported."""
        for name in logs.keys() - {"epoch"}:
            vars(self).setdefault(name, []).append(logs[name])
