"""The losses by name: each in the file of its kind, all described in `loss`."""

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
from .class_losses import CrossEntropyLoss, MultiLabelMarginLoss, MultiMarginLoss, NLLLoss, ZeroOneLoss
from .loss import Loss
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

LOSSES: dict[str, type[Loss]] = {kind.__name__: kind for kind in (
    MSELoss, HalfMSELoss, L1Loss, SmoothL1Loss, HuberLoss, LogCoshLoss, PoissonNLLLoss, KLDivLoss, BCELoss,
    BCEWithLogitsLoss, MultiLabelSoftMarginLoss, HingeLoss, SquaredHingeLoss, ExponentialLoss, SoftMarginLoss,
    HingeEmbeddingLoss, CrossEntropyLoss, NLLLoss, MultiMarginLoss, MultiLabelMarginLoss, ZeroOneLoss)}
