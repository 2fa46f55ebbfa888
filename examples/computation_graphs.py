"""Scalar computation graphs: values, gradients by every way to a node, and equations solved by passing deltas back.

python examples/computation_graphs.py [--backend cpu|numpy]
"""

from math import exp, log, sqrt

import sympy
from cases import OUTPUT, run

import hotloop as hl


def main():
    run(__doc__, two_ways, solve_for_one, solve_for_both, square_root_of_logarithm, product_of_sum, gates, polynomial,
        chain, four_ways, own_operation)


def build(w=3.0, b=4.0):
    """z = (2w + 3b)(2b + 1), with its graph."""
    graph = hl.Graph()
    w, b = graph.parameter("w", w), graph.parameter("b", b)
    return graph, w, b, (2 * w + 3 * b) * (2 * b + 1)


def two_ways(backend):
    """z = (2w + 3b)(2b + 1): b reaches z by two ways, whose gradients add up."""
    graph, w, b, z = build()
    program = graph.compile(z, wrt=[w, b], backend=backend)
    value, gradients = program()
    print(f"z={value:g}, dz/dw={gradients['w']:g}, dz/db={gradients['b']:g}")
    OUTPUT.mkdir(exist_ok=True)
    program.draw(OUTPUT / "computation_graph.png")
    print("picture: examples/output/computation_graph.png")


def solve_for_one(backend):
    """z = 150 by changing b alone: the factor dz/db held at its first value, then computed anew."""
    for held in (True, False):
        graph, _, b, z = build()
        program = graph.compile(z, wrt=[b], backend=backend)
        value, factor = program()[0], program()[1]["b"]
        while abs(value - 150) > 1e-6:
            program["b"] -= (value - 150) / factor
            used = factor
            value, gradients = program()
            factor = used if held else gradients["b"]
            print(f"factor_b={used:.6f}  b={program['b']:.6f}  z={value:.6f}")


def solve_for_both(backend):
    """z = 150 by both variables, each taking half of the difference."""
    for held in (True, False):
        graph, w, b, z = build()
        program = graph.compile(z, wrt=[w, b], backend=backend)
        value, factors = program()
        while abs(value - 150) > 1e-5:
            half = (value - 150) / 2
            for name in ("w", "b"):
                program[name] -= half / factors[name]
            used = factors
            value, gradients = program()
            factors = used if held else gradients
            print(f"factors=({used['b']:.6f}, {used['w']:.6f})  w={program['w']:.6f}  b={program['b']:.6f}  "
                  f"z={value:.6f}")


def square_root_of_logarithm(backend):
    """c = sqrt(ln(x^2)) = 2.13 from x = 2, by passing the difference back through the inverse local derivatives."""
    graph = hl.Graph()
    x = graph.parameter("x", 2.0)
    a = hl.square(x)
    b = hl.log(a)
    c = hl.sqrt(b)
    locally = [graph.compile(top, wrt=[below], backend=backend) for top, below in ((c, b), (b, a), (a, x))]
    programs = graph.compile([c], backend=backend)
    for step in range(5):
        (value,) = programs()
        print(f"x={programs['x']:.6f}  c={value:.6f}")
        deltas = [value - 2.13]
        for program, name in zip(locally, (b.name, a.name, "x"), strict=True):
            program["x"] = programs["x"]
            deltas.append(deltas[-1] / program()[1][name])
        if step == 0:
            print("  delta_c={:.6f}, delta_b={:.6f}, delta_a={:.6f}, delta_x={:.6f}".format(*deltas))
        programs["x"] -= deltas[-1]
    print(f"analytic answer x=e^(c^2/2)={exp(2.13**2 / 2):.4f}; at the tutorial's 9.6653, c={sqrt(log(9.6653**2)):.5f}")


def product_of_sum(backend):
    """f = (x + y) z at (-2, 5, -4)."""
    graph = hl.Graph()
    x, y, z = (graph.parameter(name, value) for name, value in (("x", -2.0), ("y", 5.0), ("z", -4.0)))
    q = x + y
    f, gradients = graph.compile(q * z, wrt=[x, y, z], backend=backend)()
    values = ", ".join(f"{value:g}" for value in gradients.values())
    print(f"q={graph.compile(q, backend=backend)():g}, f={f:g}, gradient=({values})")


def gates(backend):
    """What gates do with a gradient: addition hands it on, maximum routes it, multiplication swaps the inputs."""
    def gradient(function, *values):
        graph = hl.Graph()
        nodes = [graph.parameter(f"x{i}", value) for i, value in enumerate(values)]
        return list(graph.compile(function(*nodes), wrt=nodes, backend=backend)()[1].values())

    x, a = 2.0, 3.0
    print("addition", gradient(lambda x, y: x + y, 3.0, -4.0), " maximum", gradient(hl.maximum, 2.0, -1.0),
          " multiplication", gradient(lambda x, y: x * y, 3.0, -4.0))
    for text, function, slope in (("1/x", lambda x: 1 / x, -1 / x**2), ("a+x", lambda x: a + x, 1.0),
                                  ("e^x", hl.exp, 2.718281828459045**x), ("a*x", lambda x: a * x, a)):
        print(f"d({text})/dx={gradient(function, x)[0]:.6f} (formula {slope:.6f})")


def polynomial(backend):
    """f = x^2 + 3xy + y^2 + z^3 at (1, 2, 3)."""
    graph = hl.Graph()
    x, y, z = (graph.parameter(name, value) for name, value in (("x", 1.0), ("y", 2.0), ("z", 3.0)))
    _, gradients = graph.compile(x**2 + 3 * x * y + y**2 + z**3, wrt=[x, y, z], backend=backend)()
    print(f"gradient=({', '.join(f'{value:g}' for value in gradients.values())})")


def chain(backend):
    """y1 = x w1 + b1, y2 = y1 w2 + b2: dy2/dw1 = dy2/dy1 dy1/dw1, with the gradient of a node in between."""
    graph = hl.Graph()
    x, w1, b1, w2, b2 = (graph.parameter(name, value) for name, value in (
        ("x", 1.0), ("w1", 2.0), ("b1", 1.0), ("w2", 2.0), ("b2", 1.0)))
    y1 = x * w1 + b1
    y2 = y1 * w2 + b2
    whole = graph.compile(y2, wrt=[w1, y1], backend=backend)()[1]
    part = graph.compile(y1, wrt=[w1], backend=backend)()[1]
    print(f"dy2/dy1={whole[y1.name]:g}, dy1/dw1={part['w1']:g}, product={whole[y1.name] * part['w1']:g}, "
          f"dy2/dw1={whole['w1']:g}")


def four_ways(backend):
    """f = x^2 y + y + 2 at (3, 4): by hand, numerically, symbolically, in forward mode, in reverse mode."""
    def f(x, y):
        return x**2 * y + y + 2

    numerical = hl.numerical_gradient(f, 3.0, 4.0)
    symbols = sympy.symbols("x y")
    formulas = [f(*symbols).diff(symbol) for symbol in symbols]
    graph = hl.Graph()
    x, y = graph.parameter("x", 3.0), graph.parameter("y", 4.0)
    forward = [graph.compile(graph.jvp(f(x, y), {node: 1.0}), backend=backend) for node in (x, y)]
    for program in forward:
        for name, value in (("x", 3.0), ("y", 4.0)):
            if name in program.parameters:
                program[name] = value
    reverse = graph.compile(f(x, y), wrt=[x, y], backend=backend)()[1]
    print("by hand    24.000000 10.000000  of 2xy, x^2 + 1")
    print("numerical  {:.6f} {:.6f}".format(*map(float, numerical)))
    print("symbolic   {:.6f} {:.6f}  of {}, {}".format(*(float(formula.subs({"x": 3, "y": 4})) for formula in formulas),
                                                       *formulas))
    print("forward    {:.6f} {:.6f}".format(*(program() for program in forward)))
    print("reverse    {x:.6f} {y:.6f}".format(**reverse))


def own_operation(backend):
    """An operation of one's own, f = x^2 with f' = 2x, joins the graph, and can be differentiated twice."""
    own = hl.operation("own_square", lambda x: x * x, lambda x: 2.0 * x)
    graph = hl.Graph()
    x = graph.parameter("x", 3.0)
    f = own(x) + 1
    slope = graph.gradient(f, [x])[0]
    value, gradients = graph.compile(f, wrt=[x], backend=backend)()
    second = graph.compile(slope, wrt=[x], backend=backend)()[1]
    print(f"f={value:g}, df/dx={gradients['x']:g}, d2f/dx2={second['x']:g}")


if __name__ == "__main__":
    main()
