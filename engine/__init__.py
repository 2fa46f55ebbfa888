"""hotloop: dense networks trained at the speed of the machine."""

if __name__ == "engine":
    raise ImportError("import hotloop, not engine: after `pip install -e .` that is the name of this folder")

from .callbacks import Callback, ProgressBar
from .checkpoint import load, save
from .errors import NonFiniteError
from .history import History
from .layers import (
    GELU,
    GLU,
    Activation,
    Dense,
    Dropout,
    Identity,
    Layer,
    LeakyReLU,
    Maxout,
    PReLU,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss
from .network import Sequential
from .normalization import BatchNorm1d, LayerNorm, RMSNorm
from .optimizers import SGD, Adam, AdamW
from .trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "GELU", "GLU", "SGD", "Activation", "Adam", "AdamW", "BCEWithLogitsLoss", "BatchNorm1d", "Callback",
    "CrossEntropyLoss", "Dense", "Dropout", "History", "Identity", "L1Loss", "Layer", "LayerNorm", "LeakyReLU",
    "MSELoss", "Maxout", "NonFiniteError", "PReLU", "ProgressBar", "RMSNorm", "ReLU", "Sequential", "Sigmoid",
    "Softmax", "Tanh", "Trainer", "load", "save",
]
