"""From a graph to a program: drops what nothing needs, fuses, chooses kernels, places buffers.

Fused are: dense + bias + activation; the same backwards, input gradient + activation gradient; loss + its gradient;
weight gradient + bias gradient + slope of the penalty + clipping by value + optimizer update. A value that only its
successor reads is overwritten by it. Clipping by norm waits for the whole gradient, which then goes to the arena.
"""

from hotloop.kernels import OPS
from hotloop.kernels import data as data_kernels
from hotloop.kernels.activations import ACTIVATIONS
from hotloop.kernels.clipping import norm_blocks
from hotloop.kernels.losses import LOSSES, total_loss
from hotloop.kernels.penalties import add_penalty

from .program import PHASES, Block, Buffer, External, Instruction, Program, Sums

_CHANGES = ("penalty_gradient", "clip_value", "clip_norm")  # ops on a gradient, before its update


def plan(graph, layout, *, loss=None, prediction=None, gradients=None, updates=(), keep_gradient=False, states=(),
         settings=None):
    """Make the program that computes `loss`, `prediction` (stored to the caller's array), gradients and updates.

    `gradients` maps parameter nodes to the nodes of their gradients, `updates` are the optimizer's nodes; without
    both it is a program for prediction or evaluation. `keep_gradient` stores the whole gradient in the arena;
    `states` are the names of the optimizer's states. Programs that share an arena must agree on both.
    """
    return _Planner(graph, layout, loss, prediction, gradients or {}, tuple(updates), keep_gradient,
                    states, settings or {}).program()


class _Planner:
    def __init__(self, graph, layout, loss, prediction, gradients, updates, keep_gradient, states, settings):
        self.layout, self.loss, self.prediction = layout, loss, prediction
        self.updates, self.keep_gradient, self.states, self.settings = updates, keep_gradient, states, settings
        self.gradients = gradients
        self.graph = graph
        used = gradients | {update.inputs[0]: update.inputs[1] for update in self.updates}
        self.changes = {parameter: _changes(gradient) for parameter, gradient in used.items()}
        self.weights = {gradient: parameter for parameter, (gradient, *_) in self.changes.items()}
        self.norm = next((node for node in graph.nodes if node.op == "gradient_norm"), None)
        roots = [node for node in (loss, prediction, *used.values(), *updates) if node is not None]
        self.live = _live(graph, roots)
        self.users = {node: [user for user in self.live if node in user.inputs] for node in self.live}
        self.done = set()
        self.buffers, self.place = [], {}  # node -> buffer
        self.instructions = []
        self.blocks = self._blocks()
        self.scratch, self.flops = 0, 0

    def program(self):
        make = {"input": self._gather, "target": self._gather, "labels": self._gather, "dense": self._dense,
                "dense_input_gradient": self._input_gradient, "dense_weight_gradient": self._parameter_gradient,
                "penalty": self._penalty, "gradient_norm": self._clip_norm}
        for node in self.live:
            if node in self.done or node.op in ("parameter", "one", "dense_bias_gradient"):
                continue
            if node.op in LOSSES:
                self._loss(node)
            elif node.op in make:
                make[node.op](node)
            elif node not in self.updates:
                self._rowwise(node)
        if self.prediction is not None:
            self._store()
        self.instructions.sort(key=lambda instruction: list(PHASES).index(instruction.phase))
        return Program(self.layout, self.loss, self.prediction, self.gradients, self.instructions,
                       list(self.blocks.values()), self.buffers, self._elements(), len(self.states),
                       self.keep_gradient or self.norm is not None, dict(self.settings), self.scratch, self.flops)

    def _blocks(self):
        """Weight node -> its block. All programs of one network place them alike."""
        self.biases = {}  # weight node -> bias node
        blocks, first = {}, 0
        for node in self.graph.nodes:
            if node.op != "dense":
                continue
            _, weight, *bias = node.inputs
            if weight in blocks:
                raise ValueError(f"{weight!r} belongs to two dense layers: give each its own parameter")
            outputs, inputs = weight.shape
            self.biases[weight] = bias[0] if bias else None
            blocks[weight] = Block(weight.name, bias[0].name if bias else None, first, inputs, outputs)
            first += self.layout.block(inputs, outputs)
        return blocks

    def _elements(self):
        """Numbers that all parameters take, whole cache lines."""
        block = sum(self.layout.block(block.inputs, block.outputs) for block in self.blocks.values())
        line = 64 // self.layout.dtype.itemsize
        return -(-block // line) * line

    # instructions

    def _emit(self, op, kernel, phase, nodes, operands, writes, units=0, cost=1):
        instruction = Instruction(op, kernel, phase, operands, writes, tuple(nodes), units, cost)
        self.done.update(nodes)
        if phase != "chained":
            self.instructions.append(instruction)
        return instruction

    def _gather(self, node):
        buffer = self._buffer(node)
        kernel = data_kernels.gather_labels if node.op == "labels" else data_kernels.gather
        role = "x" if node.op == "input" else "y"
        self._emit(kernel.__name__, kernel, "rows", [node],
                   {"source": External(role), "source_cols": buffer.cols, "order": External("order"), "y": buffer},
                   ("y",))

    def _dense(self, node):
        x, weight, *_ = node.inputs
        block = self.blocks[weight]
        after = next((user for user in self.users[node] if user.op in ACTIVATIONS), None)
        operands = {"x": self.place[x], "w": block, "y": None, "finish": 0, "chain": None}
        nodes = [node]
        alone = self.users[node] == [after] and node is not self.prediction
        if after is not None and OPS[after.op].finish is not None and alone:
            nodes.append(after)
            operands["y"], operands["finish"] = self._buffer(after), OPS[after.op].finish
        else:
            operands["y"] = self._buffer(node)
            if after is not None:
                nodes.append(after)
                operands["chain"] = self._elementwise(after, "chained")
        self.flops += 2 * block.inputs * block.outputs
        self._emit("dense", OPS["dense"].cpu, "rows", nodes, operands, ("y",))

    def _elementwise(self, node, phase):
        """A forward or backward activation, in place where nothing else reads its operand."""
        source = node.inputs[0]
        if self.users[source] == [node] and source is not self.prediction:
            self.place[node] = self.place[source]
        buffer = self._buffer(node)
        p = float(node.attributes.get(ACTIVATIONS.get(node.op.removesuffix("_backward"), ""), 0.0))
        if node.op.endswith("_backward"):
            operands = {"dy": self.place[source], "saved": self.place[node.inputs[1]], "dx": buffer, "p": p}
        else:
            operands = {"x": self.place[source], "y": buffer, "p": p}
        writes = ("dx",) if node.op.endswith("_backward") else ("y",)
        return self._emit(node.op, OPS[node.op].cpu, phase, [node], operands, writes)

    def _rowwise(self, node):
        base = node.op.removesuffix("_backward")
        self.scratch = max(self.scratch, self.layout.scratch(node.shape[1]))
        if base in ACTIVATIONS:
            self._elementwise(node, "rows")
            return
        source = node.inputs[0]
        if self.users[source] == [node] and source is not self.prediction:
            self.place[node] = self.place[source]
        buffer = self._buffer(node)
        names = {"softmax": ("x", "y"), "softmax_backward": ("dy", "y", "dx"), "add": ("x", "y", "z")}[node.op]
        places = [self.place[operand] for operand in node.inputs]
        operands = dict(zip(names, [*places, buffer], strict=True))
        self._emit(node.op, OPS[node.op].cpu, "rows", [node], operands, names[-1:])

    def _loss(self, node):
        prediction, target = node.inputs
        backward = next((user for user in self.live if user.op == f"{node.op}_backward"
                         and user.inputs[1:] == node.inputs), None)
        columns = prediction.shape[1]
        share = 0
        if node.attributes["reduction"] == "mean":
            share = 1 if node.op.startswith("cross_entropy") else columns
        readers = [user for user in self.users[prediction] if user not in (node, backward)]
        alone = backward is not None and not readers and prediction is not self.prediction
        if alone:
            self.place[backward] = self.place[prediction]
        slope = self._buffer(backward) if backward else self._new(f"d_{prediction.name}", columns)
        shares = self._new(node.name, 1, flat=True)
        self.scratch = max(self.scratch, self.layout.scratch(columns))
        self._emit(node.op, OPS[node.op].cpu, "rows", [node, backward] if backward else [node],
                   {"x": self.place[prediction], "target": self.place[target], "loss": shares, "dx": slope,
                    "share": share}, ("loss", "dx"))
        self._emit("total_loss", total_loss, "each", [], {"loss": shares, "share": share}, ())

    def _input_gradient(self, node):
        dy, weight = node.inputs
        block = self.blocks[weight]
        after = self.users[node][0] if len(self.users[node]) == 1 else None
        fused = (after is not None and after.op.removesuffix("_backward") in ACTIVATIONS and after.inputs[0] is node)
        operands = {"dy": self.place[dy], "w": block, "dx": None, "finish": 0, "mask": None, "chain": None}
        nodes = [node]
        if fused and OPS[after.op].finish is not None and node is not self.prediction:
            nodes.append(after)
            operands |= {"dx": self._buffer(after), "finish": OPS[after.op].finish,
                         "mask": self.place[after.inputs[1]]}
        else:
            operands["dx"] = self._buffer(node)
            if fused:
                nodes.append(after)
                operands["chain"] = self._elementwise(after, "chained")
        self.scratch = max(self.scratch, self.layout.width(block.outputs) * self.layout.panel)
        self.flops += 2 * block.inputs * block.outputs
        self._emit("dense_input_gradient", OPS[node.op].cpu, "rows", nodes, operands, ("dx",))

    def _penalty(self, node):
        _, *penalized = node.inputs
        blocks = [block for weight, block in self.blocks.items() if weight in penalized]
        sums = self._add(Sums("penalties", sum(self.layout.panels(block.outputs) for block in blocks)))
        first = 0
        for weight, block in self.blocks.items():
            if weight in penalized:
                rows = block.inputs + (self.biases[weight] in penalized)
                self._emit("penalty", OPS["penalty"].cpu, "penalty", [],
                           {"w": block, "rows": block.inputs + 1, "penalized": rows, "sums": sums, "first": first}
                           | node.attributes, (), self.layout.panels(block.outputs), block.inputs + 1)
                first += self.layout.panels(block.outputs)
        self._emit("add_penalty", add_penalty, "each", [node], {"sums": sums, "count": sums.count}, ())

    def _parameter_gradient(self, node):
        x, dy = node.inputs
        block, weight = self.blocks[self.weights[node]], self.weights[node]
        parameters = [parameter for parameter in (weight, self.biases[weight]) if parameter in self.changes]
        bias = len(parameters) > 1
        nodes = [change for parameter in parameters for change in self.changes[parameter] if change.op != "clip_norm"]
        updates = [] if self.norm else [update for update in self.updates if update.inputs[0] in parameters]
        chain = self._update(updates)
        for change in reversed(self.changes[weight][1:]):
            if change.op == "clip_value":
                chain = self._emit(change.op, OPS[change.op].cpu, "chained", [],
                                   {"limit": change.attributes["clip_value"], "chain": chain}, ())
            elif change.op == "penalty_gradient":
                rows = block.inputs + (bias and any(each.op == change.op for each in self.changes[parameters[1]]))
                chain = self._emit(change.op, OPS[change.op].cpu, "chained", [],
                                   {"w": "parameters", "first": block.first, "rows": block.inputs + 1,
                                    "penalized": rows, "chain": chain} | change.attributes, ())
        keep = self.keep_gradient or self.norm is not None
        rows = self.layout.panel + 1
        self.scratch = max(self.scratch, rows * self.layout.panel)
        self.flops += 2 * block.inputs * block.outputs
        self._emit("dense_parameter_gradient", OPS[node.op].cpu, "units", [*nodes, *updates],
                   {"x": self.place[x], "dy": self.place[dy], "w": block, "w_first": block.first,
                    "bias": int(bias), "gradient": "gradient" if keep else None,
                    "chain": chain}, ("gradient",) if keep else (),
                   self.layout.units(block.inputs, block.outputs), min(block.inputs + 1, rows))

    def _update(self, updates):
        """The instruction that makes these updates of one optimizer, or None."""
        if not updates:
            return None
        op = OPS[updates[0].op]
        states = {name: f"state {self.states.index(name)}" if name in self.states else None for name in op.states}
        return self._emit(op.name, op.cpu, "chained", updates, {"w": "parameters"} | states, ("w",))

    def _clip_norm(self, node):
        """The norm of the whole gradient, which lies in the arena by then, and the updates by the scaled gradient."""
        size = self._elements()
        sums = self._add(Sums("squares", norm_blocks(size)))
        scaled = [changes[-1] for changes in self.changes.values()]
        whole = {"gradient": "gradient", "size": size, "sums": sums}
        self._emit(node.op, OPS[node.op].cpu, "norm", [node], whole, (), sums.count)
        self._emit("clip_norm", OPS["clip_norm"].cpu, "update", [*scaled, *self.updates],
                   whole | {"blocks": sums.count, "limit": scaled[0].attributes["max_norm"],
                            "chain": self._update(self.updates)}, (), sums.count)

    def _store(self):
        buffer = self.place[self.prediction]
        self._emit("store", data_kernels.store, "rows", [], {"x": buffer, "target": External("prediction")},
                   ("target",))

    # buffers

    def _buffer(self, node):
        if node not in self.place:
            if node.op == "labels":
                self.place[node] = self._new(node.name, 1, flat=True, itemsize=8)
            else:
                self.place[node] = self._new(node.name, node.shape[1])
        return self.place[node]

    def _new(self, name, columns, flat=False, itemsize=0):
        return self._add(Buffer(name, columns, self.layout, flat, itemsize))

    def _add(self, buffer):
        self.buffers.append(buffer)
        return buffer


def _changes(gradient):
    """A parameter's gradient as the loss gives it, then what becomes of it up to `gradient`."""
    nodes = [gradient]
    while nodes[0].op in _CHANGES:
        nodes.insert(0, nodes[0].inputs[0])
    return nodes


def _live(graph, roots):
    needed = set(roots)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.inputs)
    return [node for node in graph.nodes if node in needed]
