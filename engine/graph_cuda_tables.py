"""Lowers the nodes of a general graph to launches of kernels for CUDA, for one size of the batch.

The order is that of `Tables`, whose sweeps are chains here: a block takes its elements through all their instructions.
Each node has an array of its own; what fills it up to whole blocks may hold anything, and no kernel that moves, adds up
or multiplies elements reads it.
"""

from dataclasses import dataclass
from math import prod

from hotloop.kernels import OPS, _cuda, reductions, sweep, tensors
from hotloop.kernels._block import PANEL_ROWS, THREADS, operands
from hotloop.kernels._elementwise import SPAN
from hotloop.kernels.activations import ACTIVATIONS, scalar_operands
from hotloop.kernels.gemm import gemm_stack
from hotloop.kernels.products_cuda import parts_of
from hotloop.kernels.shapes import views

from .graph_tables import Call, Place, Tables

_BLOCK = PANEL_ROWS * SPAN  # elements that a block takes through a sweep
_ENOUGH = 2  # tiles for each multiprocessor that larger ones must leave


def array_bytes(size, itemsize):
    """Bytes of an array: whole rows of PANEL elements, and whole blocks where it is more than one."""
    group = PANEL_ROWS if size <= _BLOCK else _BLOCK
    return max(1, -(-size // group)) * group * itemsize


@dataclass(eq=False)
class Launch(Call):
    """A call that blocks run, each on a rectangle: `units` rows, `height` in each, and `columns`. `inner` is chained.

    The kernel is that for CUDA.
    """

    columns: int = 1
    height: int = 0

    def __post_init__(self):
        """Take what the kernel says, if nothing else was said."""
        self.height = self.height or self.kernel.height


class CudaTables(Tables):
    """As `Tables`; phases are lists of launches.

    views: numbers, int64, that launches find in the region "views". results: bytes at the front of the working memory
    that hold those roots which the graph computes.
    """

    def __init__(self, live, roots, layout, batch, places):
        self.roots, self.views, self.results = roots, [], 0
        super().__init__(live, roots, layout, batch, places)

    def copied(self, x, y):
        """A launch that copies the elements of place x to place y."""
        return self._move(None, x, y, (x.size,), (1,), (1,))

    def _lower(self):
        for root in map(self.origin, self.roots):
            if root.op not in ("constant", "count"):
                self._give_place(root)
        self.results = self.working
        super()._lower()

    def _bytes(self, size):
        return array_bytes(size, self.itemsize)

    # sweeps

    def _sweep(self, nodes):
        for node in nodes:
            self._give_place(node)
        first, *others = map(self._elementwise, nodes)
        first.inner = others
        self.phases.append([first])

    def _elementwise(self, node):
        kernel = (sweep.fill if node.op == "broadcast_to" else OPS[node.op].cpu).cuda
        names, size = operands(kernel), self.size(node)
        wide = min(-(-size // PANEL_ROWS), SPAN)
        arrays = names[: names.index(f"{kernel.over}_cols")]
        places = [*(self.place(operand) for operand in node.inputs), self.places[node]]
        given = dict(zip(arrays, places, strict=True)) | {f"{kernel.over}_cols": wide}
        base = node.op.removesuffix("_backward")
        if base in ACTIVATIONS:
            given |= scalar_operands(base, node.attributes)
        return Launch(kernel, given, -(-size // _BLOCK) * PANEL_ROWS, node=node, columns=wide)

    # moving elements

    def _move(self, node, x, y, sizes, x_steps, y_steps, x_first=0, y_first=0):
        table = views(sizes, x_steps, y_steps)
        place = Place("views", len(self.views) * 8, len(table) * tensors.DIMENSIONS)
        self.views += [number for dimension in table for number in dimension]
        return Launch(tensors.move.cuda, {"x": self._shifted(x, x_first), "y": self._shifted(y, y_first),
                                          "views": place, "dimensions": len(table)}, prod(sizes), node=node)

    def _clear(self, node):
        return Launch(tensors.clear.cuda, {"y": self.places[node]}, self.size(node), node=node)

    # reductions

    def _sum(self, node, x):
        self._reduce(node, reductions.sum_chunks.cuda, self.place(x), *self._reduction(node))

    def _max(self, node, x):
        outer, length, inner = self._reduction(node)
        if node.op == "max":
            self._reduce(node, reductions.max_forward.cuda, self.place(x), outer, length, inner)
            return
        depth = reductions.depth_of(length)
        self.phases.append([Launch(reductions.first_max.cuda, {
            "x": self.place(x), "y": self.places[node], "length": length, "inner": inner, "depth": depth},
            outer * inner, node=node, height=THREADS // depth)])

    def _reduce(self, node, kernel, source, outer, length, inner):
        """Reduce chunks of what lies at `source`, then chunks of these results, until there is one."""
        while True:
            chunks = max(1, -(-length // reductions.CHUNK))
            target = self.places[node] if chunks == 1 else self._new(outer * chunks * inner)
            depth = reductions.depth_of(min(length, reductions.CHUNK))
            self.phases.append([Launch(kernel, {
                "x": source, "y": target, "length": length, "inner": inner, "chunks": chunks, "depth": depth},
                outer * chunks * inner, node=node, height=THREADS // depth)])
            if chunks == 1:
                return
            source, length = target, chunks

    # products

    def _matmul(self, node, x, y):
        stack, rows, inner, columns = tensors.product_sizes(node.attributes, self.shape(x), self.shape(y))
        numbers = stack * rows * columns
        parts, part = parts_of(numbers, inner)
        target = self.places[node] if parts == 1 else self._new(parts * numbers)
        kernel, matrices = gemm_stack.cuda, stack * parts
        for larger in kernel.larger:
            if matrices * (rows // larger.height) * (columns // larger.span) >= _ENOUGH * _cuda.processors():
                kernel = larger
                break
        given = {"x": self.place(x), "y": self.place(y), "z": target, "z_rows": rows, "z_cols": columns,
                 "inner": inner, "parts": parts, "part": part}
        self.phases.append([Launch(kernel, given, matrices * -(-rows // kernel.height) * kernel.height, node=node,
                                   columns=columns)])
        if parts > 1:
            self._reduce(node, reductions.sum_chunks.cuda, target, stack, parts, rows * columns)
