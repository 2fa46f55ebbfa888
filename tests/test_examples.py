"""The example scripts run, and print what they promise."""

import gzip
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments):
    """Exit status, printed lines and error output of an example."""
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"MPLBACKEND": "Agg", "PYTHONWARNINGS": "error"})
    return done.returncode, done.stdout.splitlines(), done.stderr


def module(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def cases(folder, name, backend, pictures):
    """The lines that an example made of cases prints; its pictures go into a folder beside it."""
    for needed in ("sklearn", "matplotlib"):
        pytest.importorskip(needed)
    shutil.copy(EXAMPLES / "cases.py", folder)
    status, lines, errors = run(shutil.copy(EXAMPLES / f"{name}.py", folder), "--backend", backend)
    assert status == 0, errors
    for picture in pictures:
        assert (folder / "output" / picture).read_bytes().startswith(b"\x89PNG")
    return lines


@pytest.mark.parametrize("options", [["--epochs", "6"], ["--backend", "numpy", "--epochs", "2", "--dtype", "float64"]])
def test_digits(tmp_path, options):
    for needed in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(needed)
    script = shutil.copy(EXAMPLES / "digits.py", tmp_path)  # its picture goes beside it
    status, lines, errors = run(script, *options)
    assert status == 0, errors
    epochs = int(options[options.index("--epochs") + 1])
    pattern = r"epoch +\d+  loss \d+\.\d{4}  val_loss \d+\.\d{4}  val_accuracy \d\.\d{4}  .*"
    assert all(re.fullmatch(pattern, line) for line in lines[:epochs])
    assert lines[epochs].startswith("threads: 1")
    assert float(lines[epochs + 1].rpartition(" ")[2]) < 1e-4  # difference of the weights
    assert re.fullmatch(r"speed: \d+\.\dx the numpy backend \(\d+ us against \d+ us a step\)", lines[-3])
    assert lines[-2] == "picture: examples/output/digits_loss.png"
    assert (tmp_path / "output" / "digits_loss.png").read_bytes().startswith(b"\x89PNG")
    assert re.fullmatch(r"test accuracy [01]\.\d{3}", lines[-1]) and float(lines[-1].split()[-1]) > 0.85


def write_idx(path, array, magic=None, content=None):
    header = bytes([0, 0, 8, array.ndim]) if magic is None else magic
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + sizes + (array.tobytes() if content is None else content))


@pytest.fixture
def folder(tmp_path):
    """A tiny data set in the format of Fashion-MNIST: row 2 k of an image of class k is bright."""
    generator = np.random.default_rng(0)
    for name, rows in (("train", 480), ("t10k", 60)):
        labels = generator.integers(0, 10, rows, np.uint8)
        images = generator.integers(0, 100, (rows, 28, 28), np.uint8)
        images[np.arange(rows), 2 * labels] += 150
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", labels)
    return tmp_path


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_fashion_mnist(folder, backend):
    status, lines, errors = run(EXAMPLES / "fashion_mnist.py", "--data", str(folder), "--epochs", "8", "--backend",
                                backend)
    assert status == 0, errors
    pattern = r"epoch +\d+  loss \d+\.\d{4}  val_loss \d+\.\d{4}  val_accuracy \d\.\d{4}  \d+\.\d\d s"
    assert len(lines) == 9 and all(re.fullmatch(pattern, line) for line in lines[:-1])
    assert re.fullmatch(r"test accuracy [01]\.\d{3}", lines[-1]) and float(lines[-1].split()[-1]) > 0.8


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch, which is compared with, is not installed")
def test_fashion_mnist_against_torch(folder):
    status, lines, errors = run(EXAMPLES / "fashion_mnist.py", "--data", str(folder), "--epochs", "1",
                                "--against-torch")
    assert status == 0, errors
    assert re.fullmatch(r"an epoch: hotloop [\d.]+ s \(threads: automatic\), torch [\d.]+ s \(1 thread\) and [\d.]+ s "
                        r"\(2 threads\): [\d.]+x torch's best", lines[1])


def test_fashion_mnist_without_data(tmp_path):
    status, lines, errors = run(EXAMPLES / "fashion_mnist.py", "--data", str(tmp_path))
    assert (status, lines) == (2, [])
    assert str(tmp_path) in errors and "apt install dataset-fashion-mnist" in errors and "--data FOLDER" in errors


IMAGES = np.zeros((3, 28, 28), np.uint8)


@pytest.mark.parametrize(("options", "message"), [
    ({"magic": b"\0\0\x0d\x03"}, "no IDX file of bytes in 3 dimensions: it begins 00000d03"),
    ({"magic": b"\0\0\x08\x01"}, "no IDX file of bytes in 3 dimensions"),
    ({"magic": b""}, "no IDX file"),
    ({"content": bytes(3 * 784 - 1)}, r"should hold \(3, 28, 28\) bytes, but has 2351"),
    ({"content": bytes(3 * 784 + 1)}, "but has 2353"),
])
def test_read_idx_refuses(tmp_path, options, message):
    path = tmp_path / "images.gz"
    write_idx(path, IMAGES, **options)
    with pytest.raises(ValueError, match=message):
        module("fashion_mnist").read_idx(path, dimensions=3)


def test_read_idx_takes_no_size_on_trust(tmp_path):
    path = tmp_path / "images.gz"
    with gzip.open(path, "wb") as file:
        file.write(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(ValueError, match="4294967295"):
        module("fashion_mnist").read_idx(path, dimensions=3)


def test_images_and_labels_must_match(folder):
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.zeros(59, np.uint8))
    with pytest.raises(ValueError, match="t10k has images"):
        module("fashion_mnist").load(folder)


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
@pytest.mark.parametrize(("name", "numbers", "pictures"), [
    ("computation_graphs", [
        "z=162, dz/dw=18, dz/db=63", "b=3.806068  z=150.007970", "factor_b=60.671261  b=3.805937  z=150.000000",
        "w=2.661474  b=3.903278  z=150.000170", "factors=(60.485234, 17.613053)  w=2.661517  b=3.903263  z=150.000000",
        "delta_c=-0.952590, delta_b=-2.243178, delta_a=-8.972712, delta_x=-2.243178", "x=9.655706  c=2.129577",
        "q=3, f=-12, gradient=(-4, -4, 3)", "gradient=(8, 7, 27)", "forward    24.000000 10.000000",
        "f=10, df/dx=6, d2f/dx2=2"], ["computation_graph.png"]),
    ("descent", [
        "x=0.076800  J=0.005898", "(2.400000, 0.909070)  J=6.382415", "(0.084442, 0.050819)  J=0.009711",
        "Newton's method: 1 iteration"], ["descent_surface.png", "descent_rates.png"]),
    ("backpropagation", [
        "hidden out    0.6456563062257954 0.6615031592029524", "output in     1.379730048634669 1.6511619417204186",
        "output        0.7989476413779711 0.8390480283342561",
        "output deltas 0.12672890240521031 -0.020385525551585255",
        "hidden deltas 0.011232066954600498 0.013374304651329562", "dw5           0.08182331501899741",
        "dw1           0.0011232066954600499"], ["vanishing_gradients.png"]),
])
def test_graphs(tmp_path, name, numbers, pictures, backend):
    lines = cases(tmp_path, name, backend, pictures)
    assert [number for number in numbers if not any(number in line for line in lines)] == []


def test_stochastic_descent(tmp_path):
    lines = cases(tmp_path, "stochastic_descent", "cpu", ["batch_sizes.png"])
    one, mini, full = (float(re.search(r"\+- ([\d.]+)", line)[1]) for line in lines if "a step: loss" in line)
    assert one > mini > full
    assert "0.028284 / 0.020000 = 1.414214" in lines
    small, same, scaled = (float(line.split()[-1]) for line in lines if "deviation" in line)
    assert abs(scaled / small - 1) < 0.03 < small / same - 1


def test_training_loop(tmp_path):
    lines = cases(tmp_path, "training_loop", "cpu", ["loss_curves.png"])
    *same, bent = (float(line.split()[-1]) for line in lines if "at most" in line)
    assert len(same) == 4 and max(same) < 1e-14 and bent > 0.01
    ends = dict(re.findall(r"(\w+): [\d.]+ at first, (\S+)", "\n".join(lines)))
    assert float(ends["good"]) < float(ends["oscillating"]) < float(ends["jumping"]) < float(ends["underfitting"])
    assert ends["diverging"] == "step"  # the number of the one that failed follows


def test_models(tmp_path):
    lines = cases(tmp_path, "regression_and_classification", "cpu", ["decision_boundaries.png"])
    table = [list(map(float, line.split()[2:])) for line in lines if re.search(r"\d\.\d{3} +\d\.\d{3}$", line)]
    assert len(table) == 5
    for constant, ours, peer in table:
        assert ours > constant + 0.3 and ours > peer - 0.02
