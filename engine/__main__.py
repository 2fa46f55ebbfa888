"""The command line: `python -m hotloop compare | show | warmup`."""

import argparse
import os
import sys
import time

from .compare import compare, random_data, trainer
from .errors import NonFiniteError
from .layers import activations
from .losses import LOSSES
from .optimizers import OPTIMIZERS


def main(arguments=None):
    """Run a command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, ImportError, OSError, NonFiniteError) as error:
        if isinstance(error, BrokenPipeError):  # whoever read the output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(f"hotloop: {error}", file=sys.stderr)
        return 2


def _parser():
    net = argparse.ArgumentParser(add_help=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    net.add_argument("--net", type=_widths, default="64-128-10", metavar="WIDTHS", help="widths of a dense net")
    for name, kinds, default in (("activation", activations(), "ReLU"), ("loss", LOSSES, "CrossEntropyLoss"),
                                 ("optimizer", OPTIMIZERS, "Adam")):
        net.add_argument(f"--{name}", choices=list(kinds), default=default, metavar="NAME", help=", ".join(kinds))
    net.add_argument("--dtype", choices=("float32", "float64"), default="float32")

    parser = argparse.ArgumentParser(prog="python -m hotloop", description="Compares, shows and compiles programs.")
    commands = parser.add_subparsers(required=True, metavar="command")
    options = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}

    command = commands.add_parser("compare", parents=[net], **options, help="train on the numpy and the cpu backend; "
                                  "exit with 1 if results differ by more than rounding explains")
    command.add_argument("--lr", type=float, help="learning rate; 0.1 for SGD, else 0.001")
    command.add_argument("--batch", type=int, default=64, help="rows of a step")
    command.add_argument("--steps", type=int, default=100, help="steps before parameters are compared")
    command.add_argument("--threads", type=int, help="of the cpu backend")
    command.add_argument("--seed", type=int, default=0, help="of parameters, data and order")
    command.add_argument("--tolerance", type=float, help="of all relative errors, instead of the built-in ones")
    command.set_defaults(run=_compare)

    command = commands.add_parser("show", parents=[net], **options, help="print the training program of a net")
    command.add_argument("--draw", metavar="FILE", help="draw it, too: .svg or .png (needs matplotlib)")
    command.set_defaults(run=_show)

    command = commands.add_parser("warmup", **options, help="compile every kernel into the cache, ahead of first use",
                                  description="Compiles every kernel that the cache folder does not hold yet, on all "
                                  "cores, so that no later process has to.")
    command.add_argument("--dtype", choices=("float32", "float64"), nargs="+", default=["float32", "float64"],
                         help="whose kernels")
    command.set_defaults(run=_warmup)
    return parser


def _widths(text):
    try:
        return tuple(int(width) for width in text.split("-"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"widths look like 64-128-10, got {text!r}") from None


def _compare(options):
    if options.batch < 1 or options.steps < 1:
        raise ValueError(f"batch and steps must be at least 1, got {options.batch} and {options.steps}")
    result = compare(options.net, options.activation, options.loss, options.optimizer, options.lr, options.batch,
                     options.steps, options.dtype, options.threads, options.seed, options.tolerance)
    print(result)
    return 0 if result.agrees else 1


def _show(options):
    built = trainer(options.net, options.activation, options.loss, options.optimizer, dtype=options.dtype)
    program = built.program(*random_data(options.net, LOSSES[options.loss], 1, options.dtype))
    print(program)
    if options.draw:
        program.draw(options.draw)
    return 0


def _warmup(options):
    from hotloop.kernels import _ahead, _jit
    from hotloop.kernels._cores import cores

    started = time.perf_counter()
    todo = [(kernel, dtype) for dtype in options.dtype for kernel in _kernels(dtype)]
    if _jit.folder() is None:
        raise OSError("there is no cache folder that is yours alone: name one in HOTLOOP_CACHE_DIR")
    count = len(_jit.missing(todo))
    print(f"compiling {count} kernels; the cache folder is {_jit.folder()}", flush=True)
    _ahead.compile_ahead(todo, cores(), lambda name, seconds: print(
        f"{len(_jit.compiled):4d}/{count}  {name.removeprefix('hotloop_'):54} {seconds:5.2f} s", flush=True))
    for kernel, dtype in todo:
        _jit.address(kernel, dtype)
    print(f"all kernels are ready after {time.perf_counter() - started:.1f} s")
    return 0


def _kernels(dtype):
    """Every kernel of the package; the executor and its teams serve all dtypes as float32."""
    from hotloop.kernels import _jit, team, walk

    own = [kernel for kernel in _jit.kernels if kernel.__module__.startswith("hotloop.")]
    return [kernel for kernel in own if dtype == "float32"
            or kernel not in (walk.walk, team.serve, team.lead)]


if __name__ == "__main__":
    sys.exit(main())
