"""ONNX Runtime on a model made of the weights: from array to array, or with both arrays bound beforehand."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from .competitor import Prediction
from .workloads import data, weights

OPSET, FORMAT = 17, 8  # old enough for every runtime of these years


def model(workload):
    """The net as bytes of an ONNX model."""
    nodes, constants, value, last = [], [], "x", len(workload.layers) - 1
    for place, layer in enumerate(weights(workload)):
        names = [f"weight{place}", f"bias{place}"]
        constants += [numpy_helper.from_array(array, name) for array, name in zip(layer, names, strict=True)]
        product = "y" if place == last else f"product{place}"
        nodes.append(helper.make_node("Gemm", [value, *names], [product], transB=1))
        if place < last:
            value = f"value{place}"
            nodes.append(helper.make_node("Tanh" if workload.regression else "Relu", [product], [value]))
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])]
            for name, width in (("x", workload.widths[0]), ("y", workload.widths[-1]))]
    graph = helper.make_graph(nodes, "net", *ends, constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=FORMAT).SerializeToString()


def session(workload, threads):
    """A session on so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model(workload), options, providers=["CPUExecutionProvider"])


class Predict(Prediction):
    """Outputs for an array."""

    def __init__(self, task, threads):
        x, run = data(task)[0][0], session(task.workload, threads).run
        self.call = lambda: run(["y"], {"x": x})[0]


class Bound(Prediction):
    """Outputs into an array that is always the same, for an input that is, too."""

    def __init__(self, task, threads):
        made, self.x = session(task.workload, threads), data(task)[0][0]
        self.y = np.empty((task.rows, task.workload.widths[-1]), np.float32)
        binding = made.io_binding()
        for bind, name, array in ((binding.bind_input, "x", self.x), (binding.bind_output, "y", self.y)):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self.call = lambda: made.run_with_iobinding(binding)

    def results(self):
        """The outputs."""
        self.call()
        return self.y
