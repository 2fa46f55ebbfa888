"""hotloop: dense networks trained at the speed of the machine."""

if __name__ == "engine":
    raise ImportError("import hotloop, not engine: after `pip install -e .` that is the name of this folder")

from .callbacks import Callback, ProgressBar
from .checkpoint import load, save
from .errors import NonFiniteError
from .history import History
from .layers import GELU, Activation, Dense, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from .lbfgs import LBFGS
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
from .schedules import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    InverseScalingLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
    sqrt_scaled,
)
from .trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "ASGD", "GELU", "LBFGS", "SGD", "Activation", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "BCEWithLogitsLoss",
    "Callback", "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CrossEntropyLoss", "Dense", "ExponentialLR",
    "History", "Identity", "InverseScalingLR", "L1Loss", "LeakyReLU", "LinearLR", "Lion", "MSELoss", "MultiStepLR",
    "NAdam", "NonFiniteError", "OneCycleLR", "ProgressBar", "RAdam", "RMSprop", "ReLU", "ReduceLROnPlateau", "Rprop",
    "Sequential", "SequentialLR", "Sigmoid", "Softmax", "StepLR", "Tanh", "Trainer", "load", "save", "sqrt_scaled",
]
