"""From a graph to a program: drops what nothing needs, fuses, chooses kernels, places buffers.

Fused are: dense + bias + activation; the same backwards, input gradient + activation gradient; loss + its gradient;
weight gradient + bias gradient + optimizer update. A value that only its successor reads is overwritten by it.
"""

from itertools import zip_longest

from hotloop.kernels import OPS, _jit
from hotloop.kernels import data as data_kernels
from hotloop.kernels.activations import ACTIVATIONS, scalar_operands
from hotloop.kernels.losses import LOSSES, NOTHING, total_loss, total_weight

from .program import Block, Buffer, External, Instruction, Program

_GATHERS = {"input": (data_kernels.gather, "x"), "target": (data_kernels.gather, "y"),
            "labels": (data_kernels.gather_labels, "y"), "weights": (data_kernels.gather_weights, "weights")}


def plan(graph, layout, *, loss=None, prediction=None, gradients=None, updates=(), keep_gradient=False, states=0,
         settings=None):
    """Make the program that computes `loss`, `prediction` (stored to the caller's array), gradients and updates.

    `gradients` maps parameter nodes to the nodes of their gradients, `updates` are the optimizer's nodes; without
    both it is a program for prediction or evaluation. `keep_gradient` stores the whole gradient in the arena;
    `states` is the number of optimizer states. Programs that share an arena must agree on both.
    """
    return _Planner(graph, layout, loss, prediction, gradients or {}, tuple(updates), keep_gradient,
                    states, settings or {}).program()


class _Planner:
    def __init__(self, graph, layout, loss, prediction, gradients, updates, keep_gradient, states, settings):
        self.layout, self.loss, self.prediction = layout, loss, prediction
        self.updates, self.keep_gradient, self.states, self.settings = updates, keep_gradient, states, settings
        self.gradients = gradients
        self.graph = graph
        self.weights = {gradient: parameter for parameter, gradient in gradients.items()}
        roots = [node for node in (loss, prediction, *self.weights, *updates) if node is not None]
        self.live = _live(graph, roots)
        self.users = {node: [user for user in self.live if node in user.inputs] for node in self.live}
        self.done = set()
        self.buffers, self.place = [], {}  # node -> buffer
        self.instructions, self.closing = [], []  # those that change what lasts, and gradients, come last
        self.written = {}  # buffer -> stage and phase of the instruction that wrote it
        self.blocks = self._blocks()
        self.place |= self.blocks
        self.scratch, self.flops = 0, 0

    def program(self):
        make = {**dict.fromkeys(_GATHERS, self._gather), "dense": self._dense,
                "dense_input_gradient": self._input_gradient, "dense_weight_gradient": self._parameter_gradient}
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
        if self.prediction is not None:
            self._store()
        self._order()
        block = sum(self.layout.block(block.inputs, block.outputs) for block in self.blocks.values())
        line = 64 // self.layout.dtype.itemsize
        return Program(self.layout, self.loss, self.prediction, self.gradients, self.instructions,
                       list(self.blocks.values()), self.buffers, -(-block // line) * line, self.states,
                       self.keep_gradient, dict(self.settings), self.scratch, self.flops)

    def _blocks(self):
        """Parameter or statistic -> its block. All programs of one network place them alike."""
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
        for node in self.graph.nodes:
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

    # instructions

    def _emit(self, op, kernel, phase, nodes, operands, writes, units=0, cost=1, closing=False):
        instruction = Instruction(op, kernel, phase, operands, writes, tuple(nodes), units, cost)
        instruction.stage = self._stage(instruction)
        self.done.update(nodes)
        if phase != "chained":
            (self.closing if closing else self.instructions).append(instruction)
            for part in (instruction, operands.get("chain")):
                if part is not None:
                    self.written |= {part.operands[name]: (instruction.stage, phase) for name in part.writes}
        return instruction

    def _stage(self, instruction):
        """The first stage that finds every operand: one later than where units made it, or than where rows did."""
        stage = 0
        for operand in instruction.operands.values():
            if isinstance(operand, Instruction):
                stage = max(stage, operand.stage)
            elif isinstance(operand, Buffer) and operand in self.written:
                made, phase = self.written[operand]
                stage = max(stage, made + (phase == "units"))
        return stage

    def _order(self):
        """Sort by stage and phase. What changes parameters comes when all else has read them, and the loss is known."""
        last = max((instruction.stage for instruction in self.instructions + self.closing), default=0)
        for instruction in self.closing:
            instruction.stage = last
        self.instructions += self.closing
        phases = ("before", "rows", "each", "units")
        self.instructions.sort(key=lambda instruction: (instruction.stage, phases.index(instruction.phase)))

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
        self._emit("total_loss", total_loss, "each", [], {"loss": operands["loss"], "share": given["share"]}, ())

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

    def _parameter_gradient(self, node):
        x, dy = node.inputs
        block = self.blocks[self.weights[node]]
        bias = self.gradients.get(self.biases[self.weights[node]])
        gradients = [node] if bias is None else [node, bias]
        rows = self.layout.panel + 1
        self.scratch = max(self.scratch, rows * self.layout.panel)
        self.flops += 2 * block.inputs * block.outputs
        self._gradient("dense_parameter_gradient", gradients, block,
                       {"x": self.place[x], "dy": self.place[dy], "bias": int(bias is not None)},
                       min(block.inputs + 1, rows))

    def _vector_gradient(self, node):
        """The gradient of a vector that stands by itself: a sum of dy, or of what dy and x make, over the batch."""
        dy, *saved = (self.place[operand] for operand in node.inputs[:2])
        block = self.blocks[self.weights[node]]
        self.scratch = max(self.scratch, 3 * self.layout.panel)
        self._gradient(node.op, [node], block, {"dy": dy, "x": saved[0] if saved else dy},
                       -(-dy.panels // self.layout.panels(block.outputs)))

    def _gradient(self, name, gradients, block, operands, cost):
        """A gradient of the parameters in `block`, and the optimizer's update of them."""
        updates = [update for update in self.updates if OPS[update.op].states and update.inputs[1] in gradients]
        chain = None
        if updates:
            op = OPS[updates[0].op]
            present = len(updates[0].inputs) - 2
            states = {name: f"state {i}" if i < present else None for i, name in enumerate(op.states)}
            chain = self._emit(op.name, op.cpu, "chained", updates, {"w": "parameters"} | states, ("w",))
        operands |= {"w": block, "gradient": "gradient" if self.keep_gradient else None, "chain": chain}
        self._emit(name, OPS[gradients[0].op].cpu, "units", [*gradients, *updates], operands,
                   ("gradient",) if self.keep_gradient else (), self.layout.units(block.inputs, block.outputs), cost,
                   closing=True)

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
        buffer = Buffer(name, columns, self.layout, flat, itemsize, rows)
        self.buffers.append(buffer)
        return buffer


def _operands(kernel):
    """The names of a kernel's operands, without those that tell the size of another."""
    names = _jit.operands(kernel)
    return [name for name in names if name.rpartition("_")[0] not in names]


def _live(graph, roots):
    needed = set(roots)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.inputs)
    return [node for node in graph.nodes if node in needed]
