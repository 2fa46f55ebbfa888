"""What a program makes of parameters: penalties, gradients over the batch, clipping, and the optimizer's updates."""

from hotloop.kernels import OPS
from hotloop.kernels.clipping import norm_blocks
from hotloop.kernels.dense import dense_scratch

from .program import Sums

_CHANGES = ("penalty_gradient", "clip_value", "clip_norm")  # ops on a gradient, before its update


class Updates:
    """The part of the planner that deals with parameters.

    A parameter's gradient is a sum of terms, one for each use of it. What was summed is changed and handed to the
    optimizer piece by piece, by the instruction of the last term.
    """

    def prepare(self, graph, gradients, updates, keep_gradient, states):
        """Learn what the gradients of parameters are made of, and what becomes of them."""
        self.states = states
        self.updates = [update for update in updates if OPS[update.op].states]  # the others change statistics
        self.used = gradients | {update.inputs[0]: update.inputs[1] for update in self.updates}
        self.changes = {parameter: _changes(gradient) for parameter, gradient in self.used.items()}
        terms = {parameter: _terms(gradient) for parameter, (gradient, *_) in self.changes.items()}
        for parameter, found in terms.items():
            if any(node.op == "broadcast_to" for node in found):
                raise ValueError(f"the loss has slope 0 along every way to {parameter!r}: nothing can train it")
        self.sums = {parameter: [node for node in found if node.op == "add"] for parameter, found in terms.items()}
        self.terms = {parameter: [node for node in found if node.op != "add"] for parameter, found in terms.items()}
        self.weights = {node: parameter for parameter, found in self.terms.items() for node in found}
        self.norm = next((node for node in graph.nodes if node.op == "gradient_norm"), None)
        self.keep_gradient = keep_gradient or self.norm is not None or (self.layout.cuda and bool(self.updates))
        self.left = {parameter: len(found) for parameter, found in self.terms.items()}

    def keeps_gradient(self):
        """Whether the arena holds a gradient: someone asks for it, or a sum of terms waits there."""
        return self.keep_gradient or any(len(found) > 1 for found in self.terms.values())

    def penalty(self, node):
        """The penalties of parameters, panel by panel, for `total_loss` to add."""
        blocks = {}  # block -> what is penalized in it
        for parameter in node.inputs[1:]:
            owner = next((weight for weight, bias in self.biases.items() if bias is parameter), parameter)
            blocks.setdefault(self.blocks[owner], []).append(parameter)
        sums = self.add(Sums("penalties", sum(self.layout.panels(block.outputs) for block in blocks)))
        first = 0
        for block, penalized in blocks.items():
            self.emit("penalty", OPS["penalty"].cpu, "units", [],
                      {"w": block, "sums": sums, "first": first} | _panel_rows(block, penalized) | node.attributes,
                      ("sums",), self.layout.panels(block.outputs), block.inputs + 1)
            first += self.layout.panels(block.outputs)
        self.penalties |= {"sums": sums, "count": sums.count}

    def matrix_gradient(self, node):
        """The gradient of the weight and, along with it, the bias of a dense layer."""
        x, dy = node.inputs
        weight = self.weights[node]
        block, bias = self.blocks[weight], self.biases[weight]
        of_bias = [term for term in self.terms.get(bias, ()) if term.inputs == (dy,) and term not in self.done][:1]
        panel = self.layout.panel
        self.scratch = max(self.scratch, dense_scratch(panel, self.layout.lanes) + panel * panel)
        self.flops += 2 * block.inputs * block.outputs
        self._gradient("dense_parameter_gradient", [node, *of_bias], {
            "x": self.of(x), "dy": self.of(dy), "bias": len(of_bias), "by_panel": int(self.columns)},
            min(block.inputs + 1, panel + 1))

    def vector_gradient(self, node):
        """The gradient of a vector that stands by itself: a sum of dy, or of what dy and x make, over the batch."""
        dy, *saved = (self.of(operand) for operand in node.inputs[:2])
        block = self.blocks[self.weights[node]]
        self.scratch = max(self.scratch, 3 * self.layout.panel)
        self._gradient(node.op, [node], {"dy": dy, "x": saved[0] if saved else dy},
                       -(-dy.panels // self.layout.panels(block.outputs)))

    def _gradient(self, name, terms, operands, cost):
        """A term of the gradient of a block's parameters, and after the last one what becomes of their sum."""
        parameters = [self.weights[term] for term in terms]
        block, nodes, chain = self.blocks[parameters[0]], list(terms), None
        first = self.left[parameters[0]] == len(self.terms[parameters[0]])
        self.left[parameters[0]] -= 1
        last = self.left[parameters[0]] == 0
        if last:
            changes = [change for parameter in parameters for change in self.changes[parameter][1:]]
            updates = [update for update in self.updates if update.inputs[0] in parameters and self.norm is None]
            chain = self._changed(block, parameters, self._update(updates))
            nodes += [node for parameter in parameters for node in self.sums[parameter]]
            nodes += [*(change for change in changes if change.op != "clip_norm"), *updates]
        kept = self.keep_gradient or not (first and last)
        operands |= {"w": block, "gradient": "gradient" if kept else None, "onto": None if first else "gradient",
                     "chain": chain}
        self.emit(name, OPS[terms[0].op].cpu, "units", nodes, operands, ("gradient",) if kept else (),
                  self.layout.units(block.inputs, block.outputs), cost, closing=True)

    def _changed(self, block, parameters, chain):
        """The instructions that change the whole gradient of a block before `chain`, its update."""
        for change in reversed(self.changes[parameters[0]][1:]):
            if change.op == "clip_value":
                chain = self.emit(change.op, OPS[change.op].cpu, "chained", [],
                                  {"limit": change.attributes["clip_value"], "chain": chain}, ())
            elif change.op == "penalty_gradient":
                penalized = [parameter for parameter in parameters
                             if any(node.op == change.op for node in self.changes[parameter])]
                chain = self.emit(change.op, OPS[change.op].cpu, "chained", [],
                                  {"w": "parameters", "first": block.first, "chain": chain}
                                  | _panel_rows(block, penalized) | change.attributes, ())
        return chain

    def _update(self, updates):
        """The instruction that makes these updates of one optimizer, or None."""
        if not updates:
            return None
        op = OPS[updates[0].op]
        states = {name: f"state {self.states.index(name)}" if name in self.states else None for name in op.states}
        return self.emit(op.name, op.cpu, "chained", updates, {"w": "parameters"} | states, ("w",))

    def clip_norm(self, node):
        """The norm of the whole gradient, which lies in the arena by then, and the updates by the scaled gradient."""
        size = self.size(node for node in self.blocks if node.op == "parameter")
        sums = self.add(Sums("squares", norm_blocks(size)))
        scaled = [changes[-1] for changes in self.changes.values()]
        whole = {"gradient": "gradient", "size": size, "sums": sums}
        self.emit(node.op, OPS[node.op].cpu, "units", [node], whole, ("sums",), sums.count, closing=True)
        self.emit("clip_norm", OPS["clip_norm"].cpu, "units", [*scaled, *self.updates],
                  whole | {"blocks": sums.count, "limit": scaled[0].attributes["max_norm"],
                           "chain": self._update(self.updates)}, (), sums.count, closing=True)


def _changes(gradient):
    """A parameter's gradient as the loss gives it, then what becomes of it up to `gradient`."""
    nodes = [gradient]
    while nodes[0].op in _CHANGES:
        nodes.insert(0, nodes[0].inputs[0])
    return nodes


def _terms(gradient):
    """What a parameter's gradient is the sum of, and the nodes that add it up, each after its operands."""
    found = [gradient]
    for node in found:  # which grows on the way
        found += node.inputs if node.op == "add" else ()
    return found[::-1]


def _panel_rows(block, penalized):
    """Rows of a panel of `block`, and how many of them, the first, belong to the parameters that are penalized."""
    return {"rows": block.inputs + 1,
            "penalized": sum(block.inputs if len(parameter.shape) > 1 else 1 for parameter in penalized)}
