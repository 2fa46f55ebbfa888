"""From a graph to a program: drops what nothing needs, fuses, chooses kernels, places buffers.

Fused are: dense + bias + activation; the same backwards, input gradient + activation gradient; loss + its gradient;
weight gradient + bias gradient + slope of the penalty + clipping by value + optimizer update. A value that only its
successor reads is overwritten by it. Clipping by norm waits for the whole gradient, which then goes to the arena.
"""

from itertools import zip_longest

from hotloop.kernels import OPS, _jit
from hotloop.kernels import data as data_kernels
from hotloop.kernels.activations import ACTIVATIONS, scalar_operands
from hotloop.kernels.clipping import norm_blocks
from hotloop.kernels.losses import LOSSES, NOTHING, total_loss, total_weight

from .program import PHASES, Block, Buffer, External, Instruction, Program, Sums

_CHANGES = ("penalty_gradient", "clip_value", "clip_norm")  # ops on a gradient, before its update
_GATHERS = {"input": (data_kernels.gather, "x"), "target": (data_kernels.gather, "y"),
            "labels": (data_kernels.gather_labels, "y"), "weights": (data_kernels.gather_weights, "weights")}



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
        self.states, self.settings, self.graph, self.gradients = states, settings, graph, gradients
        self.updates = [update for update in updates if OPS[update.op].states]  # the others change statistics
        used = gradients | {update.inputs[0]: update.inputs[1] for update in self.updates}
        self.changes = {parameter: _changes(gradient) for parameter, gradient in used.items()}
        self.weights = {gradient: parameter for parameter, (gradient, *_) in self.changes.items()}
        self.norm = next((node for node in graph.nodes if node.op == "gradient_norm"), None)
        self.keep_gradient = keep_gradient or self.norm is not None
        roots = [node for node in (loss, prediction, *used.values(), *updates) if node is not None]
        self.live = _live(graph, roots)
        self.users = {node: [user for user in self.live if node in user.inputs] for node in self.live}
        self.done = set()
        self.buffers, self.place = [], {}  # node -> buffer
        self.instructions, self.closing = [], []  # those that change what lasts, and gradients, come last
        self.written = {}  # buffer or region -> stage and phase of the instruction that wrote it
        self.total = {"sums": None, "count": 0}  # what the loss is the sum of
        self.blocks = self._blocks()
        self.place |= self.blocks
        self.scratch, self.flops = 0, 0

    def program(self):
        make = {**dict.fromkeys(_GATHERS, self._gather), "dense": self._dense,
                "dense_input_gradient": self._input_gradient, "dense_weight_gradient": self._parameter_gradient,
                "penalty": self._penalty, "gradient_norm": self._clip_norm}
        for node in self.live:
            if node in self.done or node.op in ("parameter", "statistic", "key", "constant", "dense_bias_gradient"):
                continue
            if node.op in LOSSES:
                self._loss(node)
            elif node.op in make:
                make[node.op](node)
            elif node in self.weights:
                self._vector_gradient(node)
            elif not OPS[node.op].states:
                self._apply(node)
        if self.loss is not None:
            penalized = [] if self.loss in self.done else [self.loss]
            self._emit("total_loss", total_loss, "each", penalized, self.total, ())
        if self.prediction is not None:
            self._store()
        self._order()
        line = 64 // self.layout.dtype.itemsize
        return Program(self.layout, self.loss, self.prediction, self.gradients, self.instructions,
                       list(self.blocks.values()), self.buffers, -(-self._size(self.blocks) // line) * line,
                       len(self.states), self.keep_gradient, dict(self.settings), self.scratch, self.flops)

    def _blocks(self):
        """Parameter or statistic -> its block, statistics last. All programs of one network place them alike."""
        self.biases, states = {}, set()  # weight node -> bias node; states of optimizers lie elsewhere
        for node in self.graph.nodes:
            if node.op == "dense":
                _, weight, *bias = node.inputs
                if weight in self.biases:
                    raise ValueError(f"{weight!r} belongs to two dense layers: give each its own parameter")
                self.biases[weight] = bias[0] if bias else None
            elif node.inputs and OPS[node.op].states:
                states.update(node.inputs[2:])
        others = states.union(self.biases.values())
        blocks, first = {}, 0
        for node in sorted(self.graph.nodes, key=lambda node: node.op == "statistic"):
            if node.op not in ("parameter", "statistic") or node in others:
                continue
            if len(node.shape) == 2:
                outputs, inputs = node.shape
                bias = self.biases.get(node)
                blocks[node] = Block(node.name, None if bias is None else bias.name, first, inputs, outputs)
            else:
                blocks[node] = Block(None, node.name, first, 0, *node.shape or (1,), counts=node.shape == ())
            first += self.layout.block(blocks[node].inputs, blocks[node].outputs)
        return blocks

    def _size(self, nodes):
        """Numbers that the blocks of these nodes take."""
        blocks = [self.blocks[node] for node in nodes]
        return sum(self.layout.block(block.inputs, block.outputs) for block in blocks)

    # instructions

    def _emit(self, op, kernel, phase, nodes, operands, writes, units=0, cost=1, closing=False):
        instruction = Instruction(op, kernel, phase, operands, writes, tuple(nodes), units, cost)
        self.done.update(nodes)
        if closing:
            self.closing.append(instruction)
        elif phase != "chained":
            self._enter(instruction)
        return instruction

    def _enter(self, instruction, stage=0):
        """Append to the program, at the first stage from `stage` on that finds every operand: after units made it."""
        parts = [instruction, *instruction.chained()]
        for part in parts:
            for name, operand in part.operands.items():
                whole = isinstance(operand, Buffer | Sums) or operand == "gradient"  # not one block of a region
                if whole and name not in part.writes and operand in self.written:
                    made, phase = self.written[operand]
                    stage = max(stage, made + (phase == "units"))
        instruction.stage = stage
        self.instructions.append(instruction)
        for part in parts:
            self.written |= {part.operands[name]: (stage, instruction.phase) for name in part.writes}

    def _order(self):
        """Sort by stage and phase. What changes parameters comes when all else has read them, and the loss is known."""
        last = max((instruction.stage for instruction in self.instructions), default=0)
        for instruction in self.closing:
            self._enter(instruction, last)
        self.instructions.sort(key=lambda instruction: (instruction.stage, PHASES.index(instruction.phase)))

    def _gather(self, node):
        buffer = self._buffer(node)
        kernel, role = _GATHERS[node.op]
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
        if node.op.endswith("_backward"):
            operands = {"dy": self.place[source], "saved": self.place[node.inputs[1]], "dx": buffer}
        else:
            operands = {"x": self.place[source], "y": buffer}
        operands |= scalar_operands(node.op.removesuffix("_backward"), node.attributes)
        writes = ("dx",) if node.op.endswith("_backward") else ("y",)
        return self._emit(node.op, OPS[node.op].cpu, phase, [node], operands, writes)

    def _apply(self, node):
        """An op by itself, its operands told by the kernel's parameters."""
        columns = max(operand.shape[-1] for operand in (node, *node.inputs) if operand.shape)
        self.scratch = max(self.scratch, self.layout.scratch(columns))
        if node.op.removesuffix("_backward") in ACTIVATIONS:
            self._elementwise(node, "rows")
            return
        op, source = OPS[node.op], node.inputs[0]
        if self.users[source] == [node] and source is not self.prediction and source.shape == node.shape:
            self.place[node] = self.place[source]
        names = [name for name in _operands(op.cpu) if name not in node.attributes]
        inputs = [self.place[operand] for operand in node.inputs if operand.op != "key"]
        operands = {name: value for name, value in node.attributes.items() if name in _jit.operands(op.cpu)}
        if op.phase == "update":
            operands |= dict(zip(names, inputs, strict=True))
            self._emit(node.op, op.cpu, "units", [node], operands, (), 1, closing=True)
            return
        *names, result = [name for name in names if name != "key"]
        operands |= dict(zip_longest(names, inputs)) | {result: self._buffer(node)}
        self._emit(node.op, op.cpu, op.phase, [node], operands, (result,), self.layout.panels(columns))

    def _loss(self, node):
        prediction, target, *sample = node.inputs
        backward = next((user for user in self.live if user.op == f"{node.op}_backward"
                         and user.inputs[1:] == node.inputs), None)
        columns = prediction.shape[1]
        given = LOSSES[node.op].operands(node.attributes, columns)
        readers = [user for user in self.users[prediction] if user not in (node, backward)]
        alone = backward is not None and not readers and prediction is not self.prediction
        if alone:
            self.place[backward] = self.place[prediction]
        operands = {"x": self.place[prediction], "target": self.place[target], "sample": None,
                    "loss": self._new(node.name, 1, flat=True)} | given
        if sample:
            operands["sample"] = self.place[sample[0]]
        if OPS[node.op].gradient is not None:
            operands["dx"] = (self._new(f"d_{prediction.name}", columns) if backward is None
                              else self._buffer(backward))
        self.scratch = max(self.scratch, self.layout.scratch(columns))
        self._total_weight(LOSSES[node.op], given, sample)
        self._emit(node.op, OPS[node.op].cpu, "rows", [node] if backward is None else [node, backward], operands,
                   tuple(name for name in ("loss", "dx") if name in operands))
        self.total |= {"loss": operands["loss"], "share": given["share"]}

    def _total_weight(self, loss, given, sample):
        """What the rows of a batch count for, if not for one each, must be known before the first of them is run."""
        if not given["share"] or not (sample or loss.counts):
            return
        counted = {"labels": None, "weight": None, "ignored": NOTHING}
        if loss.counts:
            counted = {"labels": External("y"), "weight": given["weight"], "ignored": given["ignored"]}
        self._emit("total_weight", total_weight, "before", [],
                   {"order": External("order"), "sample": External("weights") if sample else None} | counted, ())

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
        """The penalties of parameters, panel by panel, for `total_loss` to add."""
        blocks = {}  # block -> what is penalized in it
        for parameter in node.inputs[1:]:
            owner = next((weight for weight, bias in self.biases.items() if bias is parameter), parameter)
            blocks.setdefault(self.blocks[owner], []).append(parameter)
        sums = self._add(Sums("penalties", sum(self.layout.panels(block.outputs) for block in blocks)))
        first = 0
        for block, penalized in blocks.items():
            self._emit("penalty", OPS["penalty"].cpu, "units", [],
                       {"w": block, "sums": sums, "first": first} | _panel_rows(block, penalized) | node.attributes,
                       ("sums",), self.layout.panels(block.outputs), block.inputs + 1)
            first += self.layout.panels(block.outputs)
        self.total |= {"sums": sums, "count": sums.count}

    def _parameter_gradient(self, node):
        x, dy = node.inputs
        weight = self.weights[node]
        block, bias = self.blocks[weight], self.biases[weight]
        parameters = [parameter for parameter in (weight, bias) if parameter in self.changes]
        rows = self.layout.panel + 1
        self.scratch = max(self.scratch, rows * self.layout.panel)
        self.flops += 2 * block.inputs * block.outputs
        self._gradient("dense_parameter_gradient", parameters, {
            "x": self.place[x], "dy": self.place[dy], "bias": int(len(parameters) > 1)}, min(block.inputs + 1, rows))

    def _vector_gradient(self, node):
        """The gradient of a vector that stands by itself: a sum of dy, or of what dy and x make, over the batch."""
        dy, *saved = (self.place[operand] for operand in node.inputs[:2])
        block = self.blocks[self.weights[node]]
        self.scratch = max(self.scratch, 3 * self.layout.panel)
        self._gradient(node.op, [self.weights[node]], {"dy": dy, "x": saved[0] if saved else dy},
                       -(-dy.panels // self.layout.panels(block.outputs)))

    def _gradient(self, name, parameters, operands, cost):
        """The gradient of the parameters of a block, what becomes of it, and the optimizer's update of them."""
        block, changes = self.blocks[parameters[0]], self.changes[parameters[0]]
        nodes = [node for parameter in parameters for node in self.changes[parameter] if node.op != "clip_norm"]
        updates = [update for update in self.updates if update.inputs[0] in parameters and self.norm is None]
        chain = self._update(updates)
        for change in reversed(changes[1:]):
            if change.op == "clip_value":
                chain = self._emit(change.op, OPS[change.op].cpu, "chained", [],
                                   {"limit": change.attributes["clip_value"], "chain": chain}, ())
            elif change.op == "penalty_gradient":
                penalized = [parameter for parameter in parameters
                             if any(node.op == change.op for node in self.changes[parameter])]
                chain = self._emit(change.op, OPS[change.op].cpu, "chained", [],
                                   {"w": "parameters", "first": block.first, "chain": chain}
                                   | _panel_rows(block, penalized) | change.attributes, ())
        operands |= {"w": block, "gradient": "gradient" if self.keep_gradient else None, "chain": chain}
        self._emit(name, OPS[nodes[0].op].cpu, "units", [*nodes, *updates], operands,
                   ("gradient",) if self.keep_gradient else (), self.layout.units(block.inputs, block.outputs), cost,
                   closing=True)

    def _update(self, updates):
        """The instruction that makes these updates of one optimizer, or None."""
        if not updates:
            return None
        op = OPS[updates[0].op]
        states = {name: f"state {self.states.index(name)}" if name in self.states else None for name in op.states}
        return self._emit(op.name, op.cpu, "chained", updates, {"w": "parameters"} | states, ("w",))

    def _clip_norm(self, node):
        """The norm of the whole gradient, which lies in the arena by then, and the updates by the scaled gradient."""
        size = self._size(node for node in self.blocks if node.op == "parameter")
        sums = self._add(Sums("squares", norm_blocks(size)))
        scaled = [changes[-1] for changes in self.changes.values()]
        whole = {"gradient": "gradient", "size": size, "sums": sums}
        self._emit(node.op, OPS[node.op].cpu, "units", [node], whole, ("sums",), sums.count, closing=True)
        self._emit("clip_norm", OPS["clip_norm"].cpu, "units", [*scaled, *self.updates],
                   whole | {"blocks": sums.count, "limit": scaled[0].attributes["max_norm"],
                            "chain": self._update(self.updates)}, (), sums.count, closing=True)

    def _store(self):
        buffer = self.place[self.prediction]
        self._emit("store", data_kernels.store, "rows", [], {"x": buffer, "target": External("prediction")},
                   ("target",))

    # buffers

    def _buffer(self, node):
        if node not in self.place:
            if node.op in ("labels", "weights"):
                self.place[node] = self._new(node.name, 1, flat=True, itemsize=8 if node.op == "labels" else 0)
            elif node.shape[0] is not None:
                self.place[node] = self._new(node.name, node.shape[1], rows=node.shape[0])
            else:
                self.place[node] = self._new(node.name, node.shape[1])
        return self.place[node]

    def _new(self, name, columns, flat=False, itemsize=0, rows=None):
        return self._add(Buffer(name, columns, self.layout, flat, itemsize, rows))

    def _add(self, buffer):
        self.buffers.append(buffer)
        return buffer


def _operands(kernel):
    """The names of a kernel's operands, without those that tell the size of another."""
    names = _jit.operands(kernel)
    return [name for name in names if name.rpartition("_")[0] not in names]


def _changes(gradient):
    """A parameter's gradient as the loss gives it, then what becomes of it up to `gradient`."""
    nodes = [gradient]
    while nodes[0].op in _CHANGES:
        nodes.insert(0, nodes[0].inputs[0])
    return nodes


def _panel_rows(block, penalized):
    """Rows of a panel of `block`, and how many of them, the first, belong to the parameters that are penalized."""
    return {"rows": block.inputs + 1,
            "penalized": sum(block.inputs if len(parameter.shape) > 1 else 1 for parameter in penalized)}


def _live(graph, roots):
    needed = set(roots)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.inputs)
    return [node for node in graph.nodes if node in needed]
