"""Trains small nets on a CUDA device, in both forms; NVIDIA's compute-sanitizer watches it in `make test-gpu`."""

import numpy as np

import hotloop as hl
from hotloop import cuda_backend

generator = np.random.default_rng(0)
X, y = generator.standard_normal((70, 5)).astype(np.float32), generator.integers(0, 3, 70)
for cuda_backend._SMALL in (0, np.inf):
    net = hl.Sequential(hl.Dense(5, 33), hl.BatchNorm1d(33), hl.GELU(), hl.Dropout(0.2), hl.Dense(33, 3))
    trainer = hl.Trainer(net, hl.CrossEntropyLoss(), hl.Adam(), 40, backend="cuda", clip_norm=1.0)
    print(trainer.fit(X, y, epochs=3).loss, trainer.evaluate(X, y))
