"""The optimizer's numbers in a program's cells, update after update, made anew when what they follow from changed."""

import copy

_AHEAD = 64  # updates that numbers are made for at once, where they change from one to the next


class Numbers:
    """The numbers that one optimizer and a schedule give the updates of a trainer, for the cells of a `Brief`.

    What they follow from is compared before each update: it may have been changed since the last one.
    """

    def __init__(self, trainer, brief):
        self.optimizer, self.brief = trainer.optimizer, brief
        self.settings, self.schedule, self.epoch = None, None, 0
        self.first, self.count, self.moving = 0, 0, []  # updates that `moving` has numbers for, by cell

    def fits(self, trainer):
        """Whether the trainer still has the optimizer whose numbers these are."""
        return trainer.optimizer is self.optimizer

    def set(self, trainer):
        """Put the numbers of the next update into the program; False where the general path is to refuse them."""
        if not self.fits(trainer):
            return False
        place = trainer.updates - self.first
        if self.settings != vars(self.optimizer) or trainer.schedule != self.schedule or (
                self.moving and not (0 <= place < self.count and trainer.epoch == self.epoch)):
            if self.optimizer.states() != trainer._states:
                return False
            self._make(trainer)
            place = 0
        for cell, numbers in self.moving:
            self.brief.reals[cell] = numbers[place]
        return True

    def _make(self, trainer):
        self.settings = None  # an interrupt in between leaves nothing that seems to be made
        self.moving = self.brief.set(trainer._settings(_AHEAD))
        self.first, self.count, self.epoch = trainer.updates, _AHEAD, trainer.epoch
        self.schedule = copy.deepcopy(trainer.schedule)
        self.settings = dict(vars(self.optimizer))
