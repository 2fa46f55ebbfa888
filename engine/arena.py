"""What lasts from run to run, as backends with kernels keep it: parameters, optimizer states and the gradient."""

import numpy as np


class Arena:
    """The part of a backend that reads and writes them in torch's shapes.

    The rest has the `dtype` and gives the numbers: `fetch(program, first, size)`, and `put(first, numbers)`, which is
    called after what was fetched has been changed.
    """

    def read(self, program, region, name):
        """A copy of one parameter, of one optimizer state of it, or of its gradient, in torch's shape."""
        block, _, panels = self._panels(program, region, name)
        if block.counts:
            return np.array(panels.view(np.int64)[0, 0, 0])
        value = np.empty(block.shapes()[name], self.dtype)
        for columns, panel in self._columns(panels, 0, block.outputs):
            value[columns] = panel[block.inputs] if name == block.vector else panel[: block.inputs].T
        return value

    def write(self, program, region, name, rows, first=0):
        """Overwrite rows of one parameter, statistic or optimizer state, in torch's shape; a count is one row."""
        block, place, panels = self._panels(program, region, name)
        if block.counts:
            panels.view(np.int64)[0, 0, 0] = rows[0]
        else:
            for columns, panel in self._columns(panels, first, first + len(rows)):
                values = rows[columns.start - first : columns.stop - first]
                if name == block.vector:
                    panel[block.inputs] = values
                else:
                    panel[: block.inputs] = values.T
        self.put(place, panels.reshape(-1))

    @staticmethod
    def _columns(panels, first, last):
        """For each panel that holds some of the columns [first, last): which, and the panel cut to them."""
        width = panels.shape[2]
        for panel in range(first // width, -(-last // width)):
            low, high = max(first, panel * width), min(last, (panel + 1) * width)
            yield slice(low, high), panels[panel, :, low - panel * width : high - panel * width]

    def _panels(self, program, region, name):
        block = next(block for block in program.blocks if name in block.shapes())
        first = region_number(program, region) * program.elements + block.first
        numbers = self.fetch(program, first, program.layout.block(block.inputs, block.outputs))
        return block, first, numbers.reshape(-1, block.inputs + 1, program.layout.panel)


def region_number(program, name):
    """Number of a region of the arena that is laid out as the parameters."""
    if name == "parameters":
        return 0
    if name == "gradient":
        return 1 + program.states
    return 1 + int(name.removeprefix("state "))
