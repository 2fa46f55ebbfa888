"""From a graph to a program: drops what nothing needs, fuses, chooses kernels, places buffers.

Fused are: dense + bias + activation; the same backwards, input gradient + activation gradient; loss + its gradient;
weight gradient + bias gradient + slope of the penalty + clipping by value + optimizer update. A value that only its
successor reads is overwritten by it. Clipping by norm waits for the whole gradient, which then goes to the arena.
What happens to parameters stands in `updates`, general ops on the features of each row in `features`.
"""

from itertools import zip_longest

from hotloop.kernels import OPS, _jit, _rows
from hotloop.kernels import data as data_kernels
from hotloop.kernels.activations import ACTIVATIONS, scalar_operands
from hotloop.kernels.columns import dense_columns, dense_input_gradient_columns
from hotloop.kernels.losses import LOSSES, NOTHING, total_loss, total_weight

from . import features
from .graph import live_nodes
from .program import Block, Buffer, External, Instruction, Program, Sums
from .updates import Updates

_SHARED = 2**16  # bytes of a matrix, which take about as long to read as the workers to wait for each other
_GATHERS = {"input": data_kernels.gather, "target": data_kernels.gather, "labels": data_kernels.gather_labels,
            "weights": data_kernels.gather_weights}


def plan(graph, layout, *, loss=None, predictions=None, gradients=None, updates=(), keep_gradient=False, states=(),
         settings=None, columns=False):
    """Make the program that computes `loss`, `predictions`, gradients and updates.

    `predictions` maps names of the caller's arrays to the nodes that are stored there, `gradients` parameter nodes to
    the nodes of their gradients, `updates` are the optimizer's nodes; without these two it is a program for prediction
    or evaluation. `keep_gradient` stores the whole gradient in the arena; `states` are the names of the optimizer's
    states. Programs that share an arena must agree on the states. `columns` deals out the columns of wide products to
    the workers, not rows: for batches of few beside many weights.
    """
    return _Planner(graph, layout, loss, predictions or {}, gradients or {}, tuple(updates), keep_gradient,
                    states, settings or {}, columns).program()


class _Planner(Updates):
    def __init__(self, graph, layout, loss, predictions, gradients, updates, keep_gradient, states, settings,
                 columns):
        self.columns = columns
        self.layout, self.loss, self.predictions = layout, loss, predictions
        self.settings, self.graph, self.gradients = settings, graph, gradients
        self.prepare(graph, gradients, updates, keep_gradient, states)
        roots = [*([] if loss is None else [loss]), *predictions.values(), *self.used.values(), *updates]
        self.live = [node for node in live_nodes(graph, roots) if features.constant(node) is None]
        self.results = {features.origin(node) for node in predictions.values()}
        self.users = {node: [] for node in self.live}  # by the node whose buffer they read
        for node in self.live:
            for operand in dict.fromkeys(map(features.origin, node.inputs)):
                if node.op != "reshape" and operand in self.users:
                    self.users[operand].append(node)
        self.done = set()
        self.buffers, self.place = [], {}  # node -> buffer
        self.instructions, self.closing = [], []  # those that change what lasts, and gradients, come last
        self.written = {}  # buffer or region -> stage and phase of the last instruction that wrote it
        self.losses, self.penalties = [], {"sums": None, "count": 0}  # what the loss is the sum of
        self.scales = {} if loss is None else _scales(loss)
        self.blocks = self._blocks()
        self.place |= self.blocks
        self.scratch, self.flops = 0, 0

    def program(self):
        make = {**dict.fromkeys(_GATHERS, self._gather), "dense": self._dense,
                "dense_input_gradient": self._input_gradient, "dense_weight_gradient": self.matrix_gradient,
                "penalty": self.penalty, "gradient_norm": self.clip_norm}
        for node in self.live:
            if node in self.done or node.op in ("parameter", "statistic", "key", "reshape", "dense_bias_gradient"):
                continue
            if node.op in LOSSES:
                self._loss(node)
            elif node.op in make:
                make[node.op](node)
            elif node in self.weights:
                self.vector_gradient(node)
            elif node.shape[:1] == (None,) and features.general(node):
                features.lower(self, node)
            elif node.op not in ("add", "multiply") and not OPS[node.op].states:
                self._apply(node)
        if self.loss is not None:
            self._total_loss()
        for name, node in self.predictions.items():
            self.emit("store", data_kernels.store, "rows", [], {"x": self.of(node), "target": External(name)},
                      ("target",))
        self._order()
        line = 64 // self.layout.dtype.itemsize
        return Program(self.layout, self.loss, self.predictions, self.gradients, self.instructions,
                       list(self.blocks.values()), self.buffers, -(-self.size(self.blocks) // line) * line,
                       len(self.states), self.keeps_gradient(), dict(self.settings), self.scratch, self.flops)

    def _blocks(self):
        """Parameter or statistic -> its block, statistics last. All programs of one network place them alike."""
        self.biases, states = {}, set()  # weight node -> bias node; states of optimizers lie elsewhere
        for node in self.graph.nodes:
            if node.op == "dense":
                _, weight, *bias = node.inputs
                if self.biases.setdefault(weight, *bias or (None,)) is not (bias[0] if bias else None):
                    raise ValueError(f"{weight!r} is used with different biases: give each use its own weight")
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

    def size(self, nodes):
        """Numbers that the blocks of these nodes take."""
        blocks = [self.blocks[node] for node in nodes]
        return sum(self.layout.block(block.inputs, block.outputs) for block in blocks)

    # instructions

    def emit(self, op, kernel, phase, nodes, operands, writes, units=0, cost=1, closing=False, stage=0):
        if self.layout.cuda:
            kernel = kernel.cuda
        instruction = Instruction(op, kernel, phase, operands, writes, tuple(nodes), units, cost)
        self.done.update(nodes)
        if closing:
            self.closing.append(instruction)
        elif phase != "chained":
            self._enter(instruction, stage)
        return instruction

    def _enter(self, instruction, stage):
        """Append to the program, at the first stage from `stage` on that finds every operand: after units made it."""
        parts = [instruction, *instruction.chained()]
        instruction.stage = stage = max(stage, *(self._ready(part.operands, part.writes) for part in parts))
        self.instructions.append(instruction)
        for part in parts:
            for name in part.writes:
                written = part.operands[name]
                self.written[written] = max(self.written.get(written, (0, "")), (stage, instruction.phase))

    def _ready(self, operands, writes=()):
        """The first stage that finds all operands but those in `writes`."""
        stage = 0
        for name, operand in operands.items():
            whole = operand == "gradient" if isinstance(operand, str) else isinstance(operand, Buffer | Sums)
            if whole and name not in writes and operand in self.written:
                made, phase = self.written[operand]
                stage = max(stage, made + (phase == "units"))
        return stage

    def _order(self):
        """Sort by stage and phase. What changes parameters comes when all else has read them, and the loss is known."""
        last = max((instruction.stage + (instruction.phase == "units" and instruction.reads_parameters())
                    for instruction in self.instructions), default=0)
        for instruction in self.closing:
            self._enter(instruction, last)
        self.instructions.sort(key=Instruction.place)

    def _gather(self, node):
        buffer = self.buffer(node)
        kernel = _GATHERS[node.op]
        self.emit(kernel.__name__, kernel, "rows", [node],
                   {"source": External(node.name), "source_cols": buffer.cols, "order": External("order"), "y": buffer},
                   ("y",))

    def _dense(self, node):
        x, weight, *_ = node.inputs
        block = self.blocks[weight]
        after = next((user for user in self.users[node] if user.op in ACTIVATIONS), None)
        operands = {"x": self.of(x), "w": block, "y": None, "finish": 0, "chain": None}
        nodes = [node]
        alone = self.only(node, after)
        if after is not None and OPS[after.op].finish is not None and alone:
            nodes.append(after)
            operands["y"], operands["finish"] = self.buffer(after), OPS[after.op].finish
        else:
            operands["y"] = self.buffer(node)
            if after is not None:
                nodes.append(after)
                operands["chain"] = self._elementwise(after, "chained")
        self.scratch = max(self.scratch, self.layout.panels(block.inputs) * self.layout.panel)
        self._product("dense", dense_columns, nodes, operands, "y")

    def _product(self, op, by_columns, nodes, operands, result):
        """A product with a matrix, whose rows are dealt out to the workers, or whose columns."""
        block, columns = operands["w"], operands[result].cols
        self.flops += 2 * block.inputs * block.outputs
        if not self.columns or not shared(block, columns, self.layout):
            self.emit(op, OPS[op].cpu, "rows", nodes, operands, (result,))
            return
        chain = operands["chain"]
        if chain is not None:  # it runs on one panel at a time
            chain.operands[f"{chain.writes[0]}_panels"] = 1
        self.emit(op, by_columns, "units", nodes, operands, (result,), self.layout.panels(columns),
                  block.inputs * block.outputs // columns)

    def _elementwise(self, node, phase):
        """A forward or backward activation, in place where nothing else reads its operand."""
        source = node.inputs[0]
        if self.only(source, node):
            self.place[node] = self.of(source)
        buffer = self.buffer(node)
        if node.op.endswith("_backward"):
            operands = {"dy": self.of(source), "saved": self.of(node.inputs[1]), "dx": buffer}
        else:
            operands = {"x": self.of(source), "y": buffer}
        operands |= scalar_operands(node.op.removesuffix("_backward"), node.attributes)
        writes = ("dx",) if node.op.endswith("_backward") else ("y",)
        return self.emit(node.op, OPS[node.op].cpu, phase, [node], operands, writes)

    def _apply(self, node):
        """An op by itself, its operands told by the kernel's parameters."""
        columns = max(operand.shape[-1] for operand in (node, *node.inputs) if operand.shape)
        kernel = self._row_kernel(node.op, columns)
        if node.op.removesuffix("_backward") in ACTIVATIONS:
            self._elementwise(node, "rows")
            return
        op, source = OPS[node.op], node.inputs[0]
        if self.only(source, node) and source.shape == node.shape:
            self.place[node] = self.of(source)
        names = [name for name in _operands(kernel) if name not in node.attributes]
        inputs = [self.of(operand) for operand in node.inputs if operand.op != "key"]
        operands = {name: value for name, value in node.attributes.items() if name in _jit.operands(kernel)}
        if op.phase == "update":
            operands |= dict(zip(names, inputs, strict=True))
            self.emit(node.op, kernel, "units", [node], operands, (), 1, closing=True)
            return
        *names, result = [name for name in names if name != "key"]
        operands |= dict(zip_longest(names, inputs)) | {result: self.buffer(node)}
        self.emit(node.op, kernel, op.phase, [node], operands, (result,), self.layout.panels(columns))

    def _loss(self, node):
        prediction, target, *sample = node.inputs
        backward = next((user for user in self.live if user.op == f"{node.op}_backward"
                         and user.inputs[1:] == node.inputs), None)
        columns, scale = prediction.shape[1], self.scales[node]
        given = LOSSES[node.op].operands(node.attributes, columns)
        readers = [user for user in self.users[features.origin(prediction)] if user not in (node, backward)]
        in_place = not self.layout.cuda or OPS[node.op].cpu.cuda.in_place
        if backward is not None and in_place and not readers and features.origin(prediction) not in self.results:
            self.place[backward] = self.of(prediction)
        operands = {"x": self.of(prediction), "target": self.of(target), "sample": None,
                    "loss": self._new(node.name, 1, flat=True), "scale": scale} | given
        if sample:
            operands["sample"] = self.of(sample[0])
        if OPS[node.op].gradient is not None:
            operands["dx"] = (self._new(f"d_{prediction.name}", columns) if backward is None
                              else self.buffer(backward))
        kernel = self._row_kernel(node.op, columns)
        self._total_weight(LOSSES[node.op], given, target, sample)
        self.emit(node.op, kernel, "rows", [node] if backward is None else [node, backward], operands,
                   tuple(name for name in ("loss", "dx") if name in operands))
        self.losses.append({"loss": operands["loss"], "share": given["share"], "scale": scale})

    def _total_loss(self):
        """The sum of the losses, each by its factor, and of penalties: in one order, when all are there."""
        joints = [node for node in self.live if node.shape == () and node not in self.done
                  and node.op in ("add", "multiply", "penalty")]
        stage = max(map(self._ready, [*self.losses, self.penalties]))
        for place, loss in enumerate(self.losses):
            first = {"sums": None, "count": 0} if place else self.penalties
            self.emit("total_loss", total_loss, "each", [] if place + 1 < len(self.losses) else joints, loss | first,
                      (), stage=stage)

    def _total_weight(self, loss, given, target, sample):
        """What the rows of a batch count for, if not for one each, must be known before the first of them is run."""
        counts = loss.counts and (given["weight"] is not None or given["ignored"] != NOTHING)
        if not given["share"] or not (sample or counts):
            return
        counted = {"labels": None, "weight": None, "ignored": NOTHING}
        if counts:
            counted = {"labels": External(target.name), "weight": given["weight"], "ignored": given["ignored"]}
        self.emit("total_weight", total_weight, "before", [],
                   {"order": External("order"), "sample": External(sample[0].name) if sample else None} | counted, ())

    def _input_gradient(self, node):
        dy, weight = node.inputs
        block = self.blocks[weight]
        after = self.users[node][0] if len(self.users[node]) == 1 else None
        fused = (after is not None and after.op.removesuffix("_backward") in ACTIVATIONS and after.inputs[0] is node)
        operands = {"dy": self.of(dy), "w": block, "dx": None, "finish": 0, "mask": None, "chain": None}
        nodes = [node]
        if fused and OPS[after.op].finish is not None and self.only(node, after):
            nodes.append(after)
            operands |= {"dx": self.buffer(after), "finish": OPS[after.op].finish,
                         "mask": self.of(after.inputs[1])}
        else:
            operands["dx"] = self.buffer(node)
            if fused:
                nodes.append(after)
                operands["chain"] = self._elementwise(after, "chained")
        turned, line = self.layout.width(block.outputs), self.layout.panels(block.outputs)
        self.scratch = max(self.scratch, (turned + line) * self.layout.panel)
        self._product("dense_input_gradient", dense_input_gradient_columns, nodes, operands, "dx")

    # buffers

    def of(self, node):
        """The buffer that holds a node."""
        return self.place[features.origin(node)]

    def only(self, node, user):
        """Whether `user` alone reads the buffer of `node`."""
        owner = features.origin(node)
        return self.users[owner] == [user] and owner not in self.results

    def _row_kernel(self, name, columns):
        """The kernel of an op along rows of so many columns, which alone decide; makes room for it to work in."""
        op = OPS[name]
        if op.wide is not None and not self.layout.cuda and _rows.many(columns, self.layout.panel):
            self.scratch = max(self.scratch, _rows.scratch_size(self.layout.panel))
            return op.wide
        self.work_on_rows(columns)
        return op.cpu

    def work_on_rows(self, columns):
        """Make room for a kernel that turns rows of so many columns."""
        self.scratch = max(self.scratch, self.layout.scratch(columns))

    def buffer(self, node):
        if node not in self.place:
            if node.op in ("labels", "weights"):
                self.place[node] = self._new(node.name, 1, flat=True, itemsize=8 if node.op == "labels" else 0)
            elif node.shape[0] is not None:
                self.place[node] = self._new(node.name, node.shape[1], rows=node.shape[0])
            else:
                self.place[node] = self._new(node.name, features.columns(node))
        return self.place[node]

    def _new(self, name, columns, flat=False, itemsize=0, rows=None):
        return self.add(Buffer(name, columns, self.layout, flat, itemsize, rows,
                               by_feature=self.layout.cuda and not flat and rows is None))

    def add(self, buffer):
        self.buffers.append(buffer)
        return buffer


def shared(block, columns, layout):
    """Whether workers gain by taking columns of a product with this matrix: by reading less of it each."""
    return layout.panels(columns) > 1 and block.inputs * block.outputs * layout.dtype.itemsize >= _SHARED


def _operands(kernel):
    """The names of a kernel's operands, without those that tell the size of another."""
    names = _jit.operands(kernel)
    return [name for name in names if name.rpartition("_")[0] not in names]


def _scales(node, scale=1.0):
    """The losses that a program's loss is the sum of, and the factor of each."""
    if node.op in LOSSES:
        return {node: scale}
    if node.op == "multiply":
        factor, other = sorted(node.inputs, key=lambda operand: features.constant(operand) is None)
        return _scales(other, scale * float(features.constant(factor)))
    return {loss: factor for operand in node.inputs if operand.shape == () for loss, factor in
            _scales(operand, scale).items()}
