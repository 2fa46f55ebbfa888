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
from .binary_losses import (
    BCELoss,
    BCEWithLogitsLoss,
    ExponentialLoss,
    HingeEmbeddingLoss,
    HingeLoss,
    MultiLabelSoftMarginLoss,
    SoftMarginLoss,
    SquaredHingeLoss,
)
from .callbacks import Callback, ProgressBar
from .checkpoint import load, save
from .class_losses import CrossEntropyLoss, MultiLabelMarginLoss, MultiMarginLoss, NLLLoss, ZeroOneLoss
from .custom import operation
from .errors import DeviceError, NonFiniteError
from .formula_losses import FormulaLoss, GaussianNLLLoss, custom_loss
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
    min,
    minimum,
    not_equal,
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
from .network import Network, Sequential
from .newton import Newton
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
from .regression_losses import (
    HalfMSELoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    LogCoshLoss,
    MSELoss,
    PoissonNLLLoss,
    SmoothL1Loss,
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
    "ASGD", "CELU", "ELU", "GELU", "GLU", "LBFGS", "SELU", "SGD", "Activation", "Adadelta", "Adagrad", "Adam",
    "AdamW", "Adamax", "BCELoss", "BCEWithLogitsLoss", "BatchNorm1d", "Callback", "ChainedScheduler", "ConstantLR",
    "CosineAnnealingLR", "CrossEntropyLoss", "Dense", "Descent", "DeviceError", "Dropout", "ExponentialLR",
    "ExponentialLoss",
    "FormulaLoss", "GaussianNLLLoss", "GradientError", "Graph", "GraphProgram", "HalfMSELoss", "Hardshrink",
    "Hardsigmoid", "Hardswish", "Hardtanh", "HingeEmbeddingLoss", "HingeLoss", "History", "HuberLoss", "Identity",
    "InverseScalingLR", "KLDivLoss", "L1Loss", "Layer", "LayerNorm", "LeakyReLU", "LinearLR", "Lion", "LogCoshLoss",
    "LogSigmoid", "LogSoftmax", "MSELoss", "Maxout", "Mish", "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss",
    "MultiMarginLoss", "MultiStepLR", "NAdam", "NLLLoss", "Network", "Newton", "NonFiniteError", "OneCycleLR",
    "PReLU", "PoissonNLLLoss", "ProgressBar", "RAdam", "RMSNorm", "RMSprop", "RReLU", "ReLU", "ReLU6",
    "ReduceLROnPlateau", "Rprop", "Sequential", "SequentialLR", "SiLU", "Sigmoid", "SmoothL1Loss", "SoftMarginLoss",
    "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "SquaredHingeLoss", "StepLR", "Tanh", "Tanhshrink",
    "Threshold", "Trainer", "ZeroOneLoss", "absolute", "concatenate", "cos", "custom_loss", "detach", "equal",
    "erf", "exp", "expm1", "gradcheck", "load", "log", "log1p", "log_softmax", "logsumexp", "matmul", "max",
    "maximum", "mean", "min", "minimum", "not_equal", "numerical_gradient", "operation", "relu", "reshape", "save",
    "sigmoid", "sign", "sin", "softmax", "sqrt", "sqrt_scaled", "square", "stack", "sum", "tanh", "transpose",
    "where",
]
