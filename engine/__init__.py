"""hotloop: dense networks trained at the speed of the machine."""

if __name__ == "engine":
    raise ImportError("import hotloop, not engine: after `pip install -e .` that is the name of this folder")

from .callbacks import Callback, ProgressBar
from .checkpoint import load, save
from .errors import NonFiniteError
from .history import History
from .layers import GELU, Activation, Dense, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss
from .network import Sequential
from .optimizers import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
)
from .trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "ASGD", "GELU", "SGD", "Activation", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "BCEWithLogitsLoss",
    "Callback", "CrossEntropyLoss", "Dense", "History", "Identity", "L1Loss", "LeakyReLU", "Lion", "MSELoss", "NAdam",
    "NonFiniteError", "ProgressBar", "RAdam", "RMSprop", "ReLU", "Rprop", "Sequential", "Sigmoid", "Softmax", "Tanh",
    "Trainer", "load", "save",
]
