"""Exceptions of hotloop beyond Python's own."""

from hotloop.kernels._cuda import DeviceError

__all__ = ["DeviceError", "NonFiniteError"]


class NonFiniteError(FloatingPointError):
    """Training met a loss or an update that is not finite and stopped.

    step: number of the update concerned, from 1 over the trainer's life. loss: the loss of that step. The network
    keeps the last finite parameters, and training can go on, say with a smaller learning rate.
    """

    def __init__(self, message, step, loss):
        """Keep the numbers beside the message."""
        super().__init__(message)
        self.step, self.loss = step, loss
