"""What runs general graphs with kernels: a table for each size of the batch, made when it is first asked for."""


class GraphEngine:
    """The part that the CPU's and the device's have in common.

    The rest has `bound`, an empty dictionary, and `_make(batch, optimizer)`, which binds the graph to a size of the
    batch, with an optimizer's update or without; what it makes can `run(inputs)`.
    """

    def run(self, inputs, batch):
        """The roots' values, new arrays, for arrays of the graph's dtype by input node."""
        return self.runner(batch)(inputs)

    def runner(self, batch):
        """What `run` does, for this size of the batch."""
        return self._bind(batch).run

    def _bind(self, batch, optimizer=None):
        key = batch, None if optimizer is None else (optimizer.op, optimizer.states())
        if key not in self.bound:
            self.bound[key] = self._make(batch, optimizer)
        return self.bound[key]
