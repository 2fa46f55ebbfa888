"""Worker threads: Python threads that wait outside compiled code and are lent, in teams, to one run at a time."""

import ctypes
import os
import queue
import sys
import threading


class _Helper(threading.Thread):
    def __init__(self):
        super().__init__(name="hotloop worker", daemon=True)
        self.jobs = queue.SimpleQueue()
        self.start()

    def run(self):
        while True:
            self.jobs.get()()
            with _lock:
                _idle.append(self)


_lock = threading.Lock()
_idle: list[_Helper] = []


def run(work, workers, abort):
    """Call `work(worker)` for worker 0 ... workers - 1, each on its own thread, 0 on this one.

    The workers must meet at a barrier as the last thing they do: on the way out nothing is waited for. If this thread
    is interrupted before it could take part, `abort()` must free the others from their barriers.
    """
    with _lock:
        helpers = [_idle.pop() if _idle else _Helper() for _ in range(workers - 1)]
    left = queue.SimpleQueue()
    sent = 0
    try:
        for worker, helper in enumerate(helpers, 1):
            sent = worker
            helper.jobs.put(lambda worker=worker: (work(worker), left.put(worker)))
        work(0)
    except BaseException:  # KeyboardInterrupt can come between any two instructions of this function
        abort()
        for _ in range(sent):
            left.get()
        raise


def _in_child():
    """A forked child has none of its parent's threads."""
    _idle.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_in_child)


def yielder():
    """Address of the C function that gives up a thread's time slice."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = ctypes.CDLL(None).sched_yield
    return ctypes.cast(function, ctypes.c_void_p).value
