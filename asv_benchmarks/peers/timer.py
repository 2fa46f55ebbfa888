"""The rounds: every competitor in a process of its own, which sleeps while another one is timed."""

import multiprocessing
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from .reference import check

ROUND_SECONDS = 0.2
PATIENCE = 3.0  # seconds in which threads must fall asleep, and processes end


class Entrant:
    """A competitor's process, which answers one request after the other."""

    def __init__(self, competitor, task):
        self.name = str(competitor)
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, competitor, task), daemon=True)
        with environment(competitor.environment):
            self.process.start()
        theirs.close()

    def send(self, request):
        """Ask for "results", "warm" or "round"."""
        try:
            self.pipe.send(request)
        except OSError:
            self.fail()

    def answer(self):
        """What the process answers; it then sleeps."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.fail()
        self.settle()
        return answer

    def ask(self, request):
        """Ask, and wait for the answer."""
        self.send(request)
        return self.answer()

    def fail(self):
        """End the run, as the process has ended."""
        raise SystemExit(f"{self.name} failed; what it says stands above") from None

    def settle(self):
        """Wait until no thread of the process runs: pools of threads spin for a while after their work."""
        deadline = time.perf_counter() + PATIENCE
        while self.awake():
            if time.perf_counter() > deadline:
                raise SystemExit(f"{self.name} keeps a core busy after its round: nobody else can be timed beside it")
            time.sleep(0.005)

    def awake(self):
        """Whether a thread runs, as far as the system tells."""
        return any(fields[0] == "R" for fields in map(_fields, Path(f"/proc/{self.process.pid}/task").glob("*/stat")))

    def seconds(self):
        """The processor time that the process has used."""
        path = Path(f"/proc/{self.process.pid}/stat")
        return sum(map(int, _fields(path)[11:13])) / os.sysconf("SC_CLK_TCK") if path.exists() else 0.0


def _fields(path):
    """The state of a process or thread and what follows it in its `stat`; nothing of one that has ended."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return ["", *["0"] * 20]


def serve(pipe, competitor, task):
    """In the process of a competitor: make it, then answer until nobody asks or listens any more."""
    competitor.confine()
    made, count = competitor(task), 1
    with suppress(EOFError, ConnectionError):  # the run has ended, be it for another one's results
        while True:
            request = pipe.recv()
            if request == "results":
                pipe.send((made.results(), made.compared))
            elif request == "warm":
                count = warm(made)
                pipe.send(count)
            else:
                pipe.send(timed(made, count) / count / task.batches * 1e6)


def warm(made):
    """Runs that fill a round, found by running more and more of them."""
    made.run(1)
    count = 1
    while (seconds := timed(made, count)) < ROUND_SECONDS / 4:
        count *= 2
    return max(1, round(count * ROUND_SECONDS / seconds))


def timed(made, count):
    """Seconds of so many runs."""
    started = time.perf_counter()
    made.run(count)
    return time.perf_counter() - started


@contextmanager
def environment(variables):
    """The variables as a child finds them; our own are as before afterwards."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure(task, competitors, rounds):
    """Check everyone, then time them: errors and microseconds a step by name, and what sleepers took of a core."""
    entrants = []
    try:
        for competitor in competitors:
            entrants.append(Entrant(competitor, task))
        for entrant in entrants:  # all at once: they import and compile, and nothing is timed yet
            entrant.send("results")
        errors = {entrant.name: check(task, entrant.name, *entrant.answer(), competitor.tolerance)
                  for entrant, competitor in zip(entrants, competitors, strict=True)}
        for entrant in entrants:
            entrant.ask("warm")
        times, asleep = interleave(entrants, rounds)
    finally:
        dismiss(entrants)
    return {"errors": errors, "microseconds": times, "asleep": asleep}


def interleave(entrants, rounds):
    """Rounds in turns, and the largest share of a core that one took while others were timed."""
    times = {entrant.name: [] for entrant in entrants}
    taken, beside = dict.fromkeys(times, 0.0), dict.fromkeys(times, 0.0)
    for _ in range(rounds):
        for entrant in entrants:
            sleepers = {other: other.seconds() for other in entrants if other is not entrant}
            started = time.perf_counter()
            times[entrant.name].append(entrant.ask("round"))
            elapsed = time.perf_counter() - started
            for other, before in sleepers.items():
                taken[other.name] += other.seconds() - before
                beside[other.name] += elapsed
    return times, max((taken[name] / beside[name] for name in times if beside[name]), default=0.0)


def dismiss(entrants):
    """End all processes, all at once, and by force those that do not go."""
    for entrant in entrants:
        entrant.pipe.close()
    deadline = time.perf_counter() + PATIENCE
    for entrant in entrants:
        entrant.process.join(max(0, deadline - time.perf_counter()))
        entrant.process.kill()
        entrant.process.join()
