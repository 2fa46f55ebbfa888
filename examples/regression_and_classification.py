"""Five models from a line to a deeper net, on scikit-learn's data: each beside scikit-learn's own and a constant.

python examples/regression_and_classification.py [--backend cpu|numpy]
"""

from itertools import pairwise

import numpy as np
from cases import run, save
from matplotlib.figure import Figure
from sklearn.base import is_regressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import hotloop as hl


def main():
    with threadpool_limits(1):  # in products as small as these, NumPy's threads cost more than they bring
        run(__doc__, models, decision_boundaries)


# the models: each learns from X (rows, features) and y (rows,), and gives a function that predicts


def linear_regression(X, y, backend):
    """y = Wx + b, mean squared error."""
    trainer = hl.Trainer(hl.Sequential(hl.Dense(X.shape[1], 1)), hl.MSELoss(), hl.LBFGS(), backend=backend,
                         dtype="float64")
    trainer.fit(X, y)
    return lambda X: trainer.predict(X)[:, 0]


def logistic_regression(X, y, backend):
    """P(y = 1) = sigmoid(Wx + b), log loss; l2 is scikit-learn's penalty, |W|^2 / 2 beside the sum of the losses."""
    trainer = hl.Trainer(hl.Sequential(hl.Dense(X.shape[1], 1), hl.Sigmoid()), hl.BCELoss(), hl.LBFGS(),
                         backend=backend, dtype="float64", l2=1 / len(X))
    trainer.fit(X, y)
    return lambda X: trainer.predict(X)[:, 0] > 0.5


def softmax_regression(X, y, backend):
    """P(y = k) = softmax(Wx + b)_k, cross-entropy, the same penalty."""
    trainer = hl.Trainer(hl.Sequential(hl.Dense(X.shape[1], y.max() + 1)), hl.CrossEntropyLoss(), hl.LBFGS(),
                         backend=backend, dtype="float64", l2=1 / len(X))
    trainer.fit(X, y)
    return lambda X: trainer.predict(X).argmax(axis=1)


def perceptron(X, y, backend, hidden=(64,)):
    """P(y = k) = softmax(W2 relu(W1 x + b1) + b2)_k, cross-entropy."""
    widths = X.shape[1], *hidden
    layers = [layer for sizes in pairwise(widths) for layer in (hl.Dense(*sizes), hl.ReLU())]
    trainer = hl.Trainer(hl.Sequential(*layers, hl.Dense(widths[-1], y.max() + 1)), hl.CrossEntropyLoss(),
                         hl.Adam(lr=3e-3), batch_size=64, backend=backend)
    trainer.fit(X, y, epochs=40)
    return lambda X: trainer.predict(X).argmax(axis=1)


def deeper(X, y, backend):
    """Three hidden layers."""
    return perceptron(X, y, backend, hidden=(64, 32, 16))


# what they learn


def models(backend):
    """Scores on a quarter of the rows, which no model has seen: R^2 of the regression, accuracy of the others."""
    print(f"{'model':20}{'data':14}{'constant':>8}{'hotloop':>10}{'scikit-learn':>15}")
    for model, load, peer in (
            (linear_regression, load_diabetes, LinearRegression()),
            (logistic_regression, load_breast_cancer, LogisticRegression()),
            (softmax_regression, load_wine, LogisticRegression()),
            (perceptron, load_digits, MLPClassifier((64,), learning_rate_init=3e-3, tol=1e-3, random_state=0)),
            (deeper, load_digits, MLPClassifier((64, 32, 16), learning_rate_init=3e-3, tol=1e-3, random_state=0))):
        X, X_test, y, y_test = split(load)
        constant, score = (DummyRegressor(), r2_score) if is_regressor(peer) else (DummyClassifier(), accuracy_score)
        found = [score(y_test, predict(X_test)) for predict in (
            constant.fit(X, y).predict, model(X, y, backend), peer.fit(X, y).predict)]
        print(f"{model.__name__:20}{load.__name__[5:]:14}{found[0]:8.3f}{found[1]:10.3f}{found[2]:15.3f}")


def split(load):
    """X and y, of three quarters of the rows to learn from and of the others; features of mean 0 and deviation 1."""
    X, y = load(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), scaler.transform(X_test), y, y_test


def decision_boundaries(backend):
    """Three vineyards told apart by colour and flavanoids of their wines: straight boundaries, and a net's."""
    wine = load_wine()
    columns = [wine.feature_names.index(name) for name in ("flavanoids", "color_intensity")]
    X, y = StandardScaler().fit_transform(wine.data[:, columns]), wine.target
    grid = np.meshgrid(np.linspace(-2.2, 3.5, 300), np.linspace(-1.9, 3.7, 300))
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, model in zip(figure.subplots(1, 2, sharey=True), (softmax_regression, deeper), strict=True):
        predict = model(X, y, backend)
        axes.contourf(*grid, predict(np.column_stack([part.ravel() for part in grid])).reshape(grid[0].shape),
                      levels=(-0.5, 0.5, 1.5, 2.5), colors=("#bee3f8", "#feebc8", "#e2e8f0"))
        for kind, color in enumerate(("#2b6cb0", "#c05621", "#4a5568")):
            axes.scatter(*X[y == kind].T, s=14, color=color, edgecolors="white", linewidths=0.5)
        accuracy = accuracy_score(y, predict(X))
        axes.set(title=f"{model.__name__.replace('_', ' ')}: {accuracy:.1%} right", xlabel="flavanoids")
        print(f"{model.__name__}: {accuracy:.3f} of the wines it has seen")
    figure.axes[0].set_ylabel("colour intensity")
    save(figure, "decision_boundaries.png")


if __name__ == "__main__":
    main()
