"""hotloop: dense networks trained at the speed of the machine."""

if __name__ == "engine":
    raise ImportError("import hotloop, not engine: after `pip install -e .` that is the name of this folder")

from .callbacks import Callback, ProgressBar
from .checkpoint import load, save
from .errors import NonFiniteError
from .functions import (
    absolute,
    concatenate,
    detach,
    equal,
    exp,
    log,
    log_softmax,
    logsumexp,
    matmul,
    max,
    maximum,
    mean,
    minimum,
    relu,
    reshape,
    sigmoid,
    sign,
    softmax,
    sqrt,
    square,
    stack,
    sum,
    tanh,
    transpose,
    where,
)
from .graph import Graph
from .graph_program import Descent, GraphProgram
from .history import History
from .layers import GELU, Activation, Dense, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss
from .network import Sequential
from .optimizers import SGD, Adam, AdamW
from .trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "GELU", "SGD", "Activation", "Adam", "AdamW", "BCEWithLogitsLoss", "Callback", "CrossEntropyLoss", "Dense",
    "Descent", "Graph", "GraphProgram", "History", "Identity", "L1Loss", "LeakyReLU", "MSELoss", "NonFiniteError",
    "ProgressBar", "ReLU", "Sequential", "Sigmoid", "Softmax", "Tanh", "Trainer", "absolute", "concatenate", "detach",
    "equal", "exp", "load", "log", "log_softmax", "logsumexp", "matmul", "max", "maximum", "mean", "minimum", "relu",
    "reshape", "save", "sigmoid", "sign", "softmax", "sqrt", "square", "stack", "sum", "tanh", "transpose", "where",
]
