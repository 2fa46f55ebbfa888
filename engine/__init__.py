"""hotloop: dense networks trained at the speed of the machine."""

if __name__ == "engine":
    raise ImportError("import hotloop, not engine: after `pip install -e .` that is the name of this folder")

from .activations import (
    CELU,
    ELU,
    GELU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    Identity,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    ReLU,
    ReLU6,
    RReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softmin,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from .callbacks import Callback, ProgressBar
from .checkpoint import load, save
from .custom import operation
from .errors import NonFiniteError
from .functions import (
    absolute,
    concatenate,
    cos,
    detach,
    equal,
    erf,
    exp,
    expm1,
    log,
    log1p,
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
    sin,
    softmax,
    sqrt,
    square,
    stack,
    sum,
    tanh,
    transpose,
    where,
)
from .gradcheck import GradientError, gradcheck, numerical_gradient
from .graph import Graph
from .graph_program import Descent, GraphProgram
from .history import History
from .layers import GLU, Activation, Dense, Dropout, Layer, Maxout, PReLU
from .lbfgs import LBFGS
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss
from .network import Sequential
from .normalization import BatchNorm1d, LayerNorm, RMSNorm
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
    "ASGD", "CELU", "ELU", "GELU", "GLU", "LBFGS", "SELU", "SGD", "Activation", "Adadelta", "Adagrad", "Adam", "AdamW",
    "Adamax", "BCEWithLogitsLoss", "BatchNorm1d", "Callback", "ChainedScheduler", "ConstantLR", "CosineAnnealingLR",
    "CrossEntropyLoss", "Dense", "Descent", "Dropout", "ExponentialLR", "GradientError", "Graph", "GraphProgram",
    "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "History", "Identity", "InverseScalingLR", "L1Loss", "Layer",
    "LayerNorm", "LeakyReLU", "LinearLR", "Lion", "LogSigmoid", "LogSoftmax", "MSELoss", "Maxout", "Mish",
    "MultiStepLR", "NAdam", "NonFiniteError", "OneCycleLR", "PReLU", "ProgressBar", "RAdam", "RMSNorm", "RMSprop",
    "RReLU", "ReLU", "ReLU6", "ReduceLROnPlateau", "Rprop", "Sequential", "SequentialLR", "SiLU", "Sigmoid", "Softmax",
    "Softmin", "Softplus", "Softshrink", "Softsign", "StepLR", "Tanh", "Tanhshrink", "Threshold", "Trainer", "absolute",
    "concatenate", "cos", "detach", "equal", "erf", "exp", "expm1", "gradcheck", "load", "log", "log1p", "log_softmax",
    "logsumexp", "matmul", "max", "maximum", "mean", "minimum", "numerical_gradient", "operation", "relu", "reshape",
    "save", "sigmoid", "sign", "sin", "softmax", "sqrt", "sqrt_scaled", "square", "stack", "sum", "tanh", "transpose",
    "where",
]
