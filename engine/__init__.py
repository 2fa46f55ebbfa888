"""hotloop: dense networks trained at the speed of the machine."""

if __name__ == "engine":
    raise ImportError("import hotloop, not engine: run `pip install -e .` and leave the repository root")

from .callbacks import Callback, ProgressBar
from .errors import NonFiniteError
from .history import History
from .layers import GELU, Dense, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from .losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss
from .network import Sequential
from .optimizers import SGD, Adam, AdamW
from .trainer import Trainer

__version__ = "0.1.0"
