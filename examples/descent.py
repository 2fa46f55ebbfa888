"""Gradient descent: traces of the first steps, the path on a surface, learning rates, a black box cracked.

python examples/descent.py [--backend cpu|numpy]
"""

import numpy as np
from cases import run, save
from matplotlib.figure import Figure

import hotloop as hl


def main():
    run(__doc__, parabola, surface, learning_rates, black_box, methods)


def parabola(backend):
    """J(x) = x^2 from 1.2 with rate 0.3 until J < 0.01, and one step further."""
    graph = hl.Graph()
    x = graph.parameter("x", 1.2)
    program = graph.compile(x**2, backend=backend)
    for steps, until in ((100, 0.01), (1, None)):
        descent = program.minimize(hl.SGD(lr=0.3), steps, until=until, trace=True)
        first = 0 if until else 1  # where it goes on, it begins with what was printed
        for place, value in zip(descent.parameters["x"][first:], descent.values[first:], strict=True):
            print(f"x={place:.6f}  J={value:.6f}")


def valley(rate, steps, backend, until=None):
    """Descend J(x, y) = x^2 + sin(y)^2 from (3, 1)."""
    graph = hl.Graph()
    x, y = graph.parameter("x", 3.0), graph.parameter("y", 1.0)
    program = graph.compile(x**2 + hl.sin(y) ** 2, backend=backend)
    return program.minimize(hl.SGD(lr=rate), steps, until=until, trace=True)


def surface(backend):
    """J(x, y) = x^2 + sin(y)^2 from (3, 1) with rate 0.1 until J < 0.01; updates made, point, value."""
    descent = valley(0.1, 100, backend, until=0.01)
    xs, ys = descent.parameters["x"], descent.parameters["y"]
    for count, row in enumerate(zip(xs, ys, descent.values, strict=True)):
        print("{:2d}: ({:.6f}, {:.6f})  J={:.6f}".format(count, *row))
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    a, b = np.meshgrid(np.linspace(-3.2, 3.2, 80), np.linspace(-1.8, 1.8, 80))
    axes.plot_surface(a, b, a**2 + np.sin(b) ** 2, cmap="Blues", alpha=0.75, linewidth=0, zorder=1)
    axes.plot(xs, ys, descent.values + 0.05, "o-", color="#c05621", markersize=3, zorder=2)
    axes.set(xlabel="x", ylabel="y", zlabel="J", title="Descent on x² + sin² y, rate 0.1")
    axes.view_init(40, -125)
    save(figure, "descent_surface.png")


def learning_rates(backend):
    """The same surface at several rates: too small crawls, too large jumps about or diverges."""
    rates = (0.01, 0.1, 0.5, 0.9, 1.02)
    figure = Figure(figsize=(12, 2.8), layout="constrained")
    panels = figure.subplots(1, len(rates), sharey=True)
    a, b = np.meshgrid(np.linspace(-4.5, 4.5, 80), np.linspace(-2.2, 2.2, 80))
    for axes, rate in zip(panels, rates, strict=True):
        descent = valley(rate, 20, backend)
        axes.contour(a, b, a**2 + np.sin(b) ** 2, (0.1, 0.4, 0.9, 2, 4, 7, 11, 16), colors="#a0aec0", linewidths=0.6)
        axes.plot(descent.parameters["x"], descent.parameters["y"], "o-", color="#c05621", markersize=2.5, linewidth=1)
        axes.set(title=f"rate {rate:g}", xlabel="x", xlim=(-4.5, 4.5), ylim=(-2.2, 2.2))
        print(f"rate {rate:4g}: J={descent.values[-1]:.6f} after {descent.updates} updates")
    panels[0].set_ylabel("y")
    save(figure, "descent_rates.png")


def black_box(backend):
    """Crack a black box from four samples: outputs are 2.21 x, learned until the mean loss is below 0.001."""
    samples = np.array([[1, 2.21], [1.1, 2.431], [1.2, 2.652], [2, 4.42]])
    graph = hl.Graph()
    x, y, w = graph.input("x", (None,)), graph.input("y", (None,)), graph.parameter("w", 0.5)
    b = graph.parameter("b", 0.0)
    guess = w * x + b
    program = graph.compile(hl.mean((guess - y) ** 2), backend=backend)
    descent = program.minimize(hl.SGD(lr=0.1), 1000, until=0.001, x=samples[:, 0], y=samples[:, 1])
    forward = graph.compile(guess, backend=backend)
    forward["w"], forward["b"] = program["w"], program["b"]
    print(f"loss={descent.values[-1]:.6f} after {descent.updates} updates, w={program['w']:.4f}, b={program['b']:.4f}")
    for (given, wanted), found in zip(samples, forward(x=samples[:, 0]), strict=True):
        print(f"{given:g} -> {found:.3f} (wanted {wanted:g})")


def methods(backend):
    """What a method uses: first derivatives, a history of them (Adam), or second derivatives (Newton's)."""
    matrix, start = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([4.0, -3.0])
    graph = hl.Graph()
    x = graph.parameter("x", start)
    value = 0.5 * (x @ (matrix @ x))
    for name, optimizer in (("gradient descent", hl.SGD(lr=0.3)), ("Adam", hl.Adam(lr=0.3)),
                            ("Newton's method", hl.Newton())):
        descent = graph.compile(value, backend=backend).minimize(optimizer, 1000, until=1e-6)
        print(f"{name}: {descent.updates} iteration{'s' * (descent.updates > 1)}")


if __name__ == "__main__":
    main()
