"""What examples made of cases share: a command line, and a folder for pictures."""

import argparse
from io import BytesIO
from pathlib import Path

OUTPUT = Path(__file__).parent / "output"


def run(description, *cases):
    """Run the cases, functions of a backend's name, each after its docstring, on the one that the command line names.

    description: the example's docstring, whose first line heads the help.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--backend", choices=("cpu", "numpy"), default="cpu")
    backend = parser.parse_args().backend
    for case in cases:
        print(f"\n{case.__doc__}")
        case(backend)


def save(figure, name):
    """Write a matplotlib figure into the folder of pictures, in 256 colours: a third of the bytes."""
    from PIL import Image  # comes with matplotlib, which cases without pictures do not need

    drawn = BytesIO()
    figure.savefig(drawn, dpi=100)
    OUTPUT.mkdir(exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE).save(OUTPUT / name, optimize=True)
    print(f"picture: examples/output/{name}")
