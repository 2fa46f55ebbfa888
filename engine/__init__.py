"""hotloop: dense networks trained at the speed of the machine."""

if __name__ == "engine":
    raise ImportError("import hotloop, not engine: after `pip install -e .` that is the name of this folder")

from .callbacks import Callback, ProgressBar
from .checkpoint import load, save
from .errors import NonFiniteError
from .history import History
from .layers import GELU, Activation, Dense, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from .losses import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    ExponentialLoss,
    HalfMSELoss,
    HingeEmbeddingLoss,
    HingeLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    LogCoshLoss,
    MSELoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    NLLLoss,
    PoissonNLLLoss,
    SmoothL1Loss,
    SoftMarginLoss,
    SquaredHingeLoss,
    ZeroOneLoss,
)
from .network import Sequential
from .optimizers import SGD, Adam, AdamW
from .trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "GELU", "SGD", "Activation", "Adam", "AdamW", "BCELoss", "BCEWithLogitsLoss", "Callback", "CrossEntropyLoss",
    "Dense", "ExponentialLoss", "HalfMSELoss", "HingeEmbeddingLoss", "HingeLoss", "History", "HuberLoss", "Identity",
    "KLDivLoss", "L1Loss", "LeakyReLU", "LogCoshLoss", "MSELoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss",
    "NLLLoss", "NonFiniteError", "PoissonNLLLoss", "ProgressBar", "ReLU", "Sequential", "Sigmoid", "SmoothL1Loss",
    "SoftMarginLoss", "Softmax", "SquaredHingeLoss", "Tanh", "Trainer", "ZeroOneLoss", "load", "save",
]
