"""Ctrl-C at a moment that suits."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def deferred_interrupts():
    """Run the block to its end; a Ctrl-C that came meanwhile has its effect after it.

    So the number of steps that were made and the numbers that say so never part. Only the main thread gets signals:
    in others, and where Python does not handle SIGINT, nothing is changed.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came = []
    try:
        signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])
