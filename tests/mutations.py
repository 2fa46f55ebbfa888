"""Plants one mistake at a time in a copy of the repository and runs the tests that should notice it.

`python tests/mutations.py [words]` takes all mistakes, or those whose file or text holds one of the words. It ends with
status 1 if one was survived, or if the tests fail without any. Each copy compiles its kernels anew: minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
DENSE, GEMM, LOSSES = "kernels/dense.py", "kernels/gemm.py", "kernels/losses.py"
GATES, EXPONENTIAL, WAVES = "kernels/gates.py", "kernels/exponential.py", "kernels/trigonometry.py"
SMOOTH, PIECES, ROWWISE = "kernels/smooth.py", "kernels/piecewise.py", "kernels/softmax.py"
UPDATES, TILES, TURNS = "kernels/optimizers.py", "kernels/_tiles.py", "kernels/_panels.py"
ADAM, ADAGRAD = "kernels/adam.py", "kernels/adagrad.py"
NUMBERS, BINARY, CLASSES = "kernels/regression_losses.py", "kernels/binary_losses.py", "kernels/class_losses.py"
ROWS, LOSS, PRODUCT, CASES = (("tests/test_ops.py", "-k", words) for words in (
    "rowwise", "losses", "test_dense", "held or zero or second or maxima"))
UPDATE, SLOPES = ("tests/test_updates.py", "-k", "updates or not_finite"), ("tests/test_op_gradients.py",)
KINKS = ("tests/test_activations.py", "-k", "kink or far")
PANELS, EXECUTOR = ("tests/test_gemm.py",), ("tests/test_walk.py", "-k", "each_unit or batches")
WEIGHTS = ("tests/test_losses.py", "-k", "weighted_training")
ELEMENTARY = ("tests/test_elementary.py", "-k", "precision")
CLIPPING, PENALTIES = "kernels/clipping.py", "kernels/penalties.py"
NORMS, COLUMN_NORM = "kernels/normalization.py", "kernels/batch_norm.py"
POOLING, FEATURES, REDUCTIONS = "kernels/pooling.py", "kernels/features.py", "kernels/reductions.py"
SCHEDULES, DERIVATIVES, NETWORK = "engine/schedules.py", "engine/autodiff.py", "engine/network.py"
CHANGES, LAYERS, BETWEEN = ("tests/test_gradients.py",), ("tests/test_layer_ops.py",), ("tests/test_network_ops.py",)
ARRAYS = ("tests/test_general_graphs.py", "-k", "arrays or matmul or threads")
LARGEST = ("tests/test_general_graphs.py", "-k", "largest")
PADDING = ("tests/test_network_ops.py", "-k", "padding")
LINES = ("tests/test_rows.py", "-k", "few_columns or fade")
ORDER, ORDERS = "engine/order.py", ("tests/test_order.py",)
ENTROPY, BATCHES, PACES = "kernels/cross_entropy.py", ("tests/test_groups.py",), ("tests/test_pace.py",)
MODEL = ("tests/test_cost.py", "-k", "blocks or shared or whole")
COLUMNS = ("tests/test_columns.py",)
BLOCKS, FEATUREWISE = "kernels/dense_by_feature.py", ("tests/test_by_feature.py",)
MOMENTS, TURNED = ("tests/test_walk.py", "-k", "moments"), ("tests/test_panels.py",)
RATES = ("tests/test_schedules.py", "-k", "torch or scikit or root or plateau")
ON_CUDA, CUDA_NETS = ("tests/test_cuda_ops.py",), ("tests/test_cuda_networks.py",)
CUDA_DENSE, CUDA_TILES = "kernels/dense_cuda.py", "kernels/_cuda_tiles.py"
CUDA, STEPS = "kernels/_cuda.py", "kernels/_steps.py"
ON_DEVICE, STREAMED, CUDA_ARRAYS = "engine/cuda_backend.py", "engine/streamed.py", ("tests/test_cuda_arrays.py",)

MUTANTS = [  # file, what stands there once, what to put in its place, tests
    (DENSE, "(panel * (x_cols + 1) + strip * PANEL)", "(panel * x_cols + strip * PANEL)", PRODUCT),
    (DENSE, "if bias and strip + group == strips:", "if bias and strip == 0:", PRODUCT),
    (DENSE, "target + (i * PANEL + j) * SIZE, PANEL)", "target + i * PANEL * SIZE, PANEL)", PRODUCT),
    (DENSE, "w + x_cols * PANEL * SIZE, 0, size", "w + (x_cols - 1) * PANEL * SIZE, 0, size", PRODUCT),
    (DENSE, "widen(scratch + i * PANEL * SIZE, columns,", "widen(scratch + i * PANEL * SIZE, columns + 1,", PADDING),
    (GEMM, "            if k > 0:", "            if k > _BLOCK:", PANELS),
    (GEMM, "(panel * b_panel + k * PANEL) * SIZE", "panel * b_panel * SIZE", PANELS),
    (GEMM, "(c, PANEL) if k > 0 else", "(c, PANEL) if k > _DEEP else", PANELS),
    (GEMM, "last = finish if k + block == depth else PLAIN", "last = finish", PANELS),
    (TILES, 'fcmp_ordered(">", gate, zero)', 'fcmp_ordered(">=", gate, zero)', SLOPES),
    (SMOOTH, "return 1.0 - y * y", "return 1.0 + y * y", ROWS),
    (SMOOTH, "return y * (1.0 - y)", "return -y * (1.0 - y)", ROWS),
    (GATES, "return fma(_ROOT, n, ratio / (1.0 - n))", "return ratio / (1.0 - n)", ROWS),
    (GATES, "fma(3.0 * _GELU_CUBE * _GELU_SCALE", "fma(_GELU_CUBE * _GELU_SCALE", SLOPES),
    (ROWWISE, "return y * (dy - total)", "return y * dy", ROWS),
    (ROWWISE, "return dy - exp(y) * total", "return dy - y * total", ROWS),
    (PIECES, "select(x > 0.0, 1.0, negative_slope)", "select(x >= 0.0, 1.0, negative_slope)", KINKS),
    (PIECES, "select(y > 0.0, 1.0, 0.0)", "select(y >= 0.0, 1.0, 0.0)", KINKS),
    (PIECES, "select((y > min_val) & (y < max_val)", "select((y > min_val) & (y <= max_val)", KINKS),
    (PIECES, "select(x <= threshold, 0.0, 1.0)", "select(x < threshold, 0.0, 1.0)", KINKS),
    (PIECES, "select(y == 0.0, 0.0, 1.0)", "1.0", KINKS),
    (SMOOTH, "select(u > threshold, 1.0, sigmoid_end(u, e))", "sigmoid_end(u, e)", KINKS),
    (GATES, "single=(-11.0,), double=(-21.65,)", "single=(-1e3,), double=(-1e3,)", KINKS),
    (SMOOTH, "select(below, 1.0, -e)", "1.0", ROWS),
    (SMOOTH, "    n_low += lifted * select(", "    n_low += 0.0 * select(", ELEMENTARY),
    (GATES, "select(lifted < -0.0, lifted, -0.0)", "lifted", ("tests/test_elementary.py", "-k", "sign")),
    (GATES, "select(a < _TANH_NEAR,", "select(a < 1.5,", ELEMENTARY),
    (WAVES, "select(digit(t, 1), -value, value)", "value", ELEMENTARY),
    ("kernels/_elementwise.py", "inside &= abs(source[i])", "inside |= abs(source[i])", ELEMENTARY),
    ("kernels/_sums.py", "q, fma(-q, over_low, rest) + low", "q, rest + low", ELEMENTARY),
    (NUMBERS, "    return 2.0 * (x - y)", "    return x - y", LOSS),
    (NUMBERS, "select(x < y, -1.0, x - y)", "select(x < y, 1.0, x - y)", SLOPES),
    (NUMBERS, "p * (d - 0.5 * p)", "p * (d - p)", LOSS),
    (BINARY, "* select(x < 0.0, e, 1.0) - p * y", "* select(x < 0.0, e, 1.0) + p * y", LOSS),
    (ENTROPY, "every[place] = every[place] - weights[i]", "every[place] = every[place] - factor", LOSS),
    (ENTROPY, "totals[i] = masses[i] / totals[i]", "totals[i] = 1.0 / totals[i]", LOSS),
    (CLASSES, "every[labels[i] * group + i] = -totals[i]", "every[labels[i] * group + i] = 0.0", LOSS),
    (ENTROPY, "kept * wanted[i] + spread", "wanted[i] + spread", LOSS),
    (CLASSES, "slopes[label] = slopes[label] - pushed", "slopes[label] = -pushed", LOSS),
    (LOSSES, "    if label == ignored:", "    if label < ignored:", LOSS),
    (LOSSES, "        row = row_of(order, cells[START] + i)", "        row = cells[START] + i", WEIGHTS),
    (LOSSES, "for i in range(whole, batch)", "for i in range(whole + 1, batch)", LOSS),
    (LOSSES, "    counted = share * cells[WEIGHT]", "    counted = cells[WEIGHT]", LOSS),
    (LOSSES, "counted = share * doubles(context, CONTEXT)[WEIGHT]", "counted = share", SLOPES),
    (UPDATES, "slope = fma(decay, weights[i], slopes[i])\n        before", "slope = slopes[i]\n        before", UPDATE),
    (UPDATES, "speed = fma(kept, before, taken * slope)", "speed = fma(kept, before, slope)", UPDATE),
    (UPDATES, "fma(own, speed, ahead * slope)", "own * speed", UPDATE),
    (UPDATES, "kept, taken, fresh = real(0.0), real(1.0), real(1.0)",
     "kept, taken, fresh = real(0.0), taken, real(1.0)", UPDATE),
    (UPDATES, "step = select(step < least, least,", "step = select(step < least, step,", UPDATE),
    (UPDATES, "slope = select(product < 0.0, 0.0, slope)", "slope = select(product < 0.0, -slope, slope)", UPDATE),
    (UPDATES, "select(share == 1.0, moved, fma(", "select(share == 2.0, moved, fma(", UPDATE),
    (ADAGRAD, "one + (update - 1) * lr_decay", "one + update * lr_decay", UPDATE),
    (ADAGRAD, "deltas[i] = fma(old, deltas[i], new * moved * moved)", "deltas[i] = deltas[i] + moved * moved", UPDATE),
    (ADAGRAD, "v = fma(-m, m, v)", "v = v - m", UPDATE),
    (ADAM, "v = select(v > largest[i], v, largest[i])", "v = select(v < largest[i], v, largest[i])", UPDATE),
    (ADAM, "fma(math.sqrt(v), steep, floor)", "fma(math.sqrt(v), steep, 1.0)", UPDATE),
    (ADAM, "select(slope < 0.0, -slope, slope) + floor", "select(slope < 0.0, -slope, slope)", UPDATE),
    (ADAM, "step = fma(of_slope, slope, of_mean * m)", "step = of_mean * m", UPDATE),
    (ADAM, "means[i] = fma(new2, change, mean)", "means[i] = aim", UPDATE),
    ("kernels/arithmetic.py", "return x + y", "return x", ROWS),
    (TURNS, "range(first, min(first + BLOCK, columns))", "range(first, first + BLOCK)", LOSS),
    ("kernels/_rows.py", "if (panel + 1) * PANEL > columns:", "if (panel + 2) * PANEL < columns:", LINES),
    ("kernels/_rows.py", "reals(y + panel * y_panel * SIZE, count)\n        for k in range(count):\n            shifts",
     "reals(y, count)\n        for k in range(count):\n            shifts", LINES),
    ("kernels/_rows.py", "make_edge(x, x_panel, columns, -_INFINITY,", "make_edge(x, x_panel, columns, 0.0,", LINES),
    (ROWWISE, "fill_line(line, added_line(line))", "fill_line(line, line[0])", LINES),
    (ENTROPY, "slope[0] = slope[0] - weights[i]", "slope[0] = slope[0] - factor", LINES),
    (EXPONENTIAL, "select(n < _GONE[0], 0.0, fma(m, power, power))", "fma(m, power, power)", LINES),
    (EXPONENTIAL, "single=(-105.0, 89.0)", "single=(-87.0, 89.0)", ELEMENTARY),
    (EXPONENTIAL, "select(x * x == 0.0,", "select(x == 0.0,", ELEMENTARY),
    ("kernels/rrelu.py", "chosen[j] > 0.0", "source[j] > 0.0", SLOPES),
    (CLIPPING, "select(slope < -most, -most, slope)", "slope", CHANGES),
    (CLIPPING, "limit / (math.sqrt(total) + np.float64(1e-6))", "limit / (total + np.float64(1e-6))", CHANGES),
    (CLIPPING, "factor > np.float64(1.0), np", "factor > np.float64(2.0), np", CHANGES),
    (CLIPPING, "count = min(_BLOCK, size - block * _BLOCK)", "count = size", CHANGES),
    (PENALTIES, "0.5 * l2 * weight * weight", "l2 * weight * weight", CHANGES),
    (PENALTIES, "select(weight < 0.0, -flat, 0.0)", "-flat", CHANGES),
    (PENALTIES, "count = max(0, min(high - low, (penalized - row) * PANEL))", "count = high - low", CHANGES),
    (NORMS, "means[i] / width if centred else 0.0", "0.0", LAYERS),
    (NORMS, "ups[i] - means[i] - ys[i] * alongs[i]", "ups[i] - means[i]", LAYERS),
    (COLUMN_NORM, "means[j] = means[j] + rest[j]", "means[j] = means[j]", LAYERS),
    (COLUMN_NORM, "unbiased = real(batch / (batch - 1))", "unbiased = real(1.0)", LAYERS),
    (COLUMN_NORM, "share = real(1 / count[0]) if cumulative", "share = real(1 / batch) if cumulative", LAYERS),
    (COLUMN_NORM, "up[j] - means[j] - saved[j] * alongs[j]", "up[j] - saved[j] * alongs[j]", LAYERS),
    ("kernels/dropout.py", "select(u < bound, 0.0, scale)", "select(u < bound, 0.0, 1.0)", LAYERS),
    ("kernels/parameters.py", "return select(x > 0.0, 0.0, dy * x)", "return dy * x", LAYERS),
    (POOLING, "slope[i] * value[i] * opened * (1.0 - opened)", "slope[i] * value[i] * opened", LAYERS),
    (POOLING, "slopes[i] = select(chosen, 0.0, slopes[i])", "slopes[i] = slopes[i]", CASES),
    (FEATURES, "min(size - done, PANEL - begin % PANEL, PANEL", "min(size - done, PANEL", BETWEEN),
    (FEATURES, "unmarked[i] = unmarked[i] - column[i]", "unmarked[i] = unmarked[i]", BETWEEN),
    (REDUCTIONS, "range(whole * PANEL, count)", "range(whole * PANEL + 1, count)", ARRAYS),
    (REDUCTIONS, "first = unit // chunks, unit % chunks * CHUNK", "first = unit // chunks, 0", ARRAYS),
    (REDUCTIONS, "select(line[j] != line[j], line[j], target[j])", "target[j]", LARGEST),
    (REDUCTIONS, "if value > best or (", "if value >= best or (", LARGEST),
    (GEMM, "b + low // rows * depth * PANEL * SIZE", "b", ARRAYS),
    (GEMM, "rest > LANES // 4", "rest >= LANES // 4", PANELS),
    (GEMM, "for k in range(depth, size):", "for k in range(size, size):", PANELS),
    (GEMM, "start + (column // PANEL * start_panel + column % PANEL) * SIZE", "start", PANELS),
    (TILES, "builder.select(held, left, ir.Constant(self.vector, None))", "left", PANELS),
    (TILES, "builder.select(builder.icmp_signed(\"<\", I64(i), m), I64(i), last)", "I64(i)", PANELS),
    (TURNS, "return rows + LANES - 1 & -LANES", "return rows & -LANES", LOSS),
    (TURNS, "full * PANEL * SIZE, PANEL, rows - full)", "full * PANEL * SIZE, PANEL, LANES)", TURNED),
    (TURNS, "= reals(x + i * PANEL * SIZE, 1)[0]", "= reals(x + i * SIZE, 1)[0]", LOSS),
    (TURNS, "widen(source + i * SIZE, 1, y", "widen(source + i * SIZE, 2, y", TURNED),
    ("kernels/_vectors.py", "reversed(list(zip(rows, targets, strict=True)))", "zip(rows, targets, strict=True)", LOSS),
    (ENTROPY, "if sample or weight:", "if weight:", LOSS),
    (ENTROPY, "select(labels[i] == ignored, 0.0, 1.0)", "1.0", LOSS),
    ("kernels/data.py", "row_of(order, start + i) * size, source_cols", "row_of(order, i) * size, source_cols", TURNED),
    ("kernels/data.py", "taken = place <= last", "taken = place < last", ORDERS),
    (ORDER, "known.start - epochs.start, known.start - before.start", "known.start - epochs.start, 0", ORDERS),
    (ORDER, "if epoch not in known:", "if epoch not in before:", ORDERS),
    (SCHEDULES, "np.where(t < self.total_iters", "np.where(t <= self.total_iters", RATES),
    (SCHEDULES, "way = np.minimum(t, self.total_iters)", "way = t", RATES),
    (SCHEDULES, '(self.milestones, t, "right").astype', '(self.milestones, t, "left").astype', RATES),
    (SCHEDULES, "rise = self.pct_start * self.total_steps", "rise = self.pct_start * (self.total_steps - 1)", RATES),
    (SCHEDULES, "if self.num_bad_epochs > self.patience", "if self.num_bad_epochs >= self.patience", RATES),
    (SCHEDULES, "np.maximum(t - start, 0)", "t", RATES),
    (DERIVATIVES, 'gradient = graph.apply("add", gradients[operand], gradient)', "pass", (
        "tests/test_graph.py", "-k", "add_up")),
    (DERIVATIVES, 'total = part if total is None else graph.apply("add", total, part)', "total = part", (
        "tests/test_derivatives.py", "-k", "all_ways")),
    (NETWORK, "return self._least[training]", "return self._least[0]", ("tests/test_layers.py", "-k", "two_rows")),
    ("engine/objective.py", "term = term * self.weights[name]", "term = term * 1.0", (
        "tests/test_networks.py", "-k", "weighed")),
    ("engine/class_losses.py", "counted = y != self.ignore_index", "counted = y > self.ignore_index", (
        "tests/test_losses.py",)),
    (DENSE, "near = min(most, strips - first_strip)", "near = most", BATCHES),
    (DENSE, "panel, strip = first_panel + spot // near, first_strip + spot % near",
     "panel, strip = first_panel + spot // near, spot % near", (
        "tests/test_bounds.py", "tests/test_training.py")),
    ("kernels/groups.py", "size, start + begin, rest - begin", "size, start, rest - begin", BATCHES),
    ("kernels/groups.py", "batch * (group + 1) // GROUPS", "batch // GROUPS * (group + 1)", BATCHES),
    ("kernels/groups.py", "            gradient[i] = 0.0", "            gradient[i] = gradient[i]", BATCHES),
    ("kernels/groups.py", "range(1, GROUPS)", "range(2, GROUPS)", BATCHES),
    ("kernels/groups.py", "            status |= call(", "            status = call(", BATCHES),
    ("engine/groups.py", "replace(instruction, units=0) for", "instruction for", BATCHES),
    ("engine/groups.py", 'if "key" in _jit.operands(part.kernel):', "if False:", BATCHES),
    ("engine/program.py", "return (1, min(self.few_rows, below))", "return (1, self.few_rows + 1)", BATCHES),
    ("engine/program.py", "self.layout.lanes * self.layout.panel\n", "0\n", ("tests/test_bounds.py",)),
    (BLOCKS, "return features - features % 2", "return features + features % 2", FEATUREWISE),
    (BLOCKS, "low // PANEL * columns, -(-high", "low // PANEL * columns, (high", FEATUREWISE),
    (BLOCKS, "context, low // PANEL * columns", "context, low * columns // PANEL * 0", FEATUREWISE),
    (BLOCKS, "made, o, finish, gate)", "made, 0, finish, gate)", FEATUREWISE),
    (BLOCKS, "_crossed(SUMS, ones, 0,", "_crossed(SUMS, ones, PANEL,", FEATUREWISE),
    (BLOCKS, "target, first, 0, 0)", "target, 0, 0, 0)", FEATUREWISE),
    ("kernels/data.py", "PANEL, min(LANES, columns - c))", "PANEL, LANES)", FEATUREWISE),
    ("kernels/data.py", "for i in range(count, filled):", "for i in range(filled, filled):", FEATUREWISE),
    ("kernels/data.py", "numbers[c * PANEL + count - 1]", "0.0", FEATUREWISE),
    (DENSE, "        return PANEL * PANEL\n", "        return PANEL\n", FEATUREWISE),
    (TURNS, "min(PANEL, rows - i)", "PANEL", FEATUREWISE),
    ("kernels/walk.py", "first = grains * worker // workers * grain", "first = size * worker // workers", FEATUREWISE),
    ("engine/by_feature.py", "if _GAIN * ours >= theirs * lanes:", "if False:", FEATUREWISE),
    ("engine/epochs.py", "if self.shuffle and batches > 1", "if self.shuffle", FEATUREWISE),
    ("engine/pace.py", "other < self._kept, other, _FIRST", "other > self._kept, other, _FIRST", PACES),
    ("engine/pace.py", "if workers != self.count or not steps:", "if not steps:", PACES),
    ("kernels/walk.py", "    before = flush_subnormals()", "    before = 8064", MOMENTS),
    ("kernels/walk.py", "    restore_rounding(before)", "    pass", MOMENTS),
    ("kernels/walk.py", " or number == phase_count - 1:", ":", EXECUTOR),
    ("kernels/walk.py", "high = min(max(-((before - end) // cost), 0), units)", "high = units", EXECUTOR),
    ("kernels/walk.py", "total += head[ROW_UNITS] * head[ROW_COST]", "total += head[ROW_COST]", EXECUTOR),
    ("kernels/walk.py", "units * (worker + 1) // workers\n", "units // workers * (worker + 1)\n", EXECUTOR),
    (DENSE, "panels = 1 if low % strips else", "panels = 1 if False else", COLUMNS),
    (DENSE, "panel, strip = first_panel + spot // near", "panel, strip = spot // near", COLUMNS),
    ("engine/cost.py", "step.rows / _even(count, step.blocks)", "step.rows / count", MODEL),
    ("engine/cost.py", "pieces / -(-pieces // count)", "min(pieces, count)", MODEL),
    ("engine/cost.py", "part.op in (\"dense\", \"dense_input_gradient\") and", "", MODEL),
    ("engine/updates.py", '"by_panel": int(self.columns)', '"by_panel": 0', COLUMNS),
    # on CUDA devices
    (CUDA_DENSE, "if c == cols:", "if c == -1:", ON_CUDA),
    (CUDA_TILES, "shared[at + 2 * step], shared[at + 3 * step] = c, d", "pass", ON_CUDA),
    ("kernels/_block.py", "if i < given else real(0) for i in range(QUAD)",
     "if given > 0 else real(0) for i in range(QUAD)", CUDA_NETS),
    (CUDA_DENSE, "(o // PANEL * (inputs + 1) + k) * PANEL", "(o // PANEL * inputs + k) * PANEL", ON_CUDA),
    (CUDA_DENSE, "return _weight(w, inputs, k, o, outputs, extra)", "return -_weight(w, inputs, k, o, outputs, extra)",
     ON_CUDA),
    (CUDA_TILES, "+ place, quad(base, cols, first + k, start + place,", "+ place, quad(base, cols, first + k, place,",
     ON_CUDA),
    ("kernels/activations.py", "target[i] = slopes[i] * slope", "target[i] = slopes[i] + slope", ON_CUDA),
    (ENTROPY, "slope - select(c == own, counted, 0.0)", "slope + select(c == own, counted, 0.0)", ON_CUDA),
    (NORMS, "(ups[c * PANEL + lane()] - total - y * along)", "(ups[c * PANEL + lane()] - total)", ON_CUDA),
    (COLUMN_NORM, "distance = row_value(x, x_cols, block, c, batch) - mean", "distance = mean", ON_CUDA),
    (UPDATES, "column % PANEL + rest % width", "rest % width", CUDA_NETS),
    (CLIPPING, "select(value < -limit, -limit, value)", "select(value < -limit, limit, value)", CUDA_NETS),
    (CUDA, "barrier()  # an instruction may be what stops the run", "pass", CUDA_NETS),
    (CUDA, "                meet()\n", "", CUDA_NETS),
    (ON_DEVICE, "if hosts != self.steps[-1:]:", "if False:", CUDA_NETS),
    (STEPS, "cells[BEFORE] += cells[AHEAD]", "pass", CUDA_NETS),
    (STEPS, "cells[UPDATE] = cells[FIRST_UPDATE] + place", "cells[UPDATE] = cells[FIRST_UPDATE]", CUDA_NETS),
    (ON_DEVICE, "0 if chain is None else self._row(chain)", "0", CUDA_NETS),
    (STREAMED, "chosen = slice(start, stop) if order is None else", "chosen = slice(start, stop) if True else",
     CUDA_ARRAYS),
]


def copy_to(folder):
    """Lay the repository out so that `folder` on the path is what the tests import."""
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for source, target in (("engine", "hotloop"), ("kernels", "hotloop/kernels"), ("tests", "tests"), ("docs", "docs")):
        shutil.copytree(ROOT / source, folder / target, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(folder, tests):
    """Exit status and output of pytest, which stops at the first failure; -1 where the copy cannot be imported."""
    environment = os.environ | {"PYTHONPATH": str(folder), "HOTLOOP_CACHE_DIR": str(folder / "cache")}

    def python(*arguments):
        return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    imported = python("-c", "import hotloop; print(hotloop.__file__)")
    if not imported.stdout.startswith(str(folder)):
        return -1, imported.stdout
    tested = python("-m", "pytest", "-x", "-p", "no:cacheprovider", "--tb=line", *tests)
    return tested.returncode, tested.stdout


def verdict(mutant):
    """What the tests say of one mistake: "killed", "SURVIVED" or what went wrong, and the report's line."""
    file, old, new, tests = mutant
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = copy_to(Path(name))
        path = folder / file.replace("kernels/", "hotloop/kernels/", 1).replace("engine/", "hotloop/", 1)
        text = path.read_text("utf-8")
        if text.count(old) == 1:
            path.write_text(text.replace(old, new), "utf-8")
            status, _ = run(folder, tests)
            result = "killed" if status < -1 else {0: "SURVIVED", 1: "killed"}.get(status, "NOT RUN")  # or by a signal
        else:
            result = f"FOUND {text.count(old)} TIMES"
    print(f"{result:10} {time.perf_counter() - started:4.0f} s  {file}: {old.strip()}  ->  {new.strip()}", flush=True)
    return result


def main(words):
    chosen = [mutant for mutant in MUTANTS if not words or any(word in " ".join(mutant[:3]) for word in words)]
    with tempfile.TemporaryDirectory() as name:
        folder = copy_to(Path(name))
        for tests in dict.fromkeys(mutant[3] for mutant in chosen):
            status, output = run(folder, tests)
            if status:
                sys.exit(f"without any mistake, {' '.join(tests)} fails:\n{output}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(verdict, chosen))
    print(f"{results.count('killed')} of {len(results)} killed")
    return any(result != "killed" for result in results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
