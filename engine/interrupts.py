"""Ctrl-C at a moment that suits."""

import signal
import threading

try:  # without the detour over enumerations, which takes longer than a training step
    import _signal
except ImportError:
    _signal = signal


class deferred_interrupts:
    """A context that runs to its end; a Ctrl-C that came meanwhile has its effect after it.

    So the number of steps that were made and the numbers that say so never part. Only the main thread gets signals:
    in others, and where Python does not handle SIGINT, nothing is changed.
    """

    def __enter__(self):
        """Note what comes instead of acting on it."""
        self.came, self.handler = [], None
        if threading.get_ident() == threading.main_thread().ident:
            handler = _signal.getsignal(signal.SIGINT)
            if callable(handler):
                self.handler = handler
                _signal.signal(signal.SIGINT, lambda *arguments: self.came.append(arguments))

    def __exit__(self, *error):
        """Act on what came."""
        if self.handler is not None:
            _signal.signal(signal.SIGINT, self.handler)
            if self.came:
                self.handler(*self.came[0])
