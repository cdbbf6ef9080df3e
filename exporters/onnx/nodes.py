"""A list of ONNX nodes under construction: the one way graph and function bodies are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

# precision of a graph or function body -> ONNX element type
FLOAT_TYPES: dict[str, int] = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}


class NodeList:
    """Nodes in execution order; every method appends and returns the name of the value it made.

    Args:
        scope: prefix of the values made, so that a function's values never share a name with the graph around it
            (TensorRT before 10.8 confuses them).
    """

    def __init__(self, scope: str = "") -> None:
        self.nodes: list[NodeProto] = []
        self.scope = scope

    def value(self, name: str) -> str:
        """The full name of a value."""
        return f"{self.scope}.{name}" if self.scope else name

    def add(self, op: str, inputs: Sequence[str], output: str, *, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Append one node with one output; its name is ``name`` or that of its output."""
        output = self.value(output)
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name or output, domain=domain, **attributes))
        return output

    def split(self, value: str, outputs: Sequence[str], axis: int) -> list[str]:
        """Split into equal parts."""
        names = [self.value(output) for output in outputs]
        self.nodes.append(helper.make_node("Split", [value], names, name=names[0], axis=axis, num_outputs=len(names)))
        return names

    def cast(self, value: str, element_type: int, output: str) -> str:
        """Cast to an ONNX element type."""
        return self.add("Cast", [value], output, to=element_type)

    def constant(self, name: str, array: np.ndarray) -> str:
        """A constant tensor."""
        return self.add("Constant", [], name, value=numpy_helper.from_array(array))

    def floats(self, name: str, values: Any) -> str:
        """A float32 constant."""
        return self.constant(name, np.asarray(values, dtype=np.float32))

    def ints(self, name: str, values: Any) -> str:
        """An int64 constant: a shape, axes, or an index."""
        return self.constant(name, np.asarray(values, dtype=np.int64))

    def float_attribute(self, name: str, attribute: str) -> str:
        """A float32 scalar that takes its value from an attribute of the calling node (function bodies only)."""
        output = self.value(name)
        node = helper.make_node("Constant", [], [output], name=output)
        node.attribute.append(AttributeProto(name="value_float", ref_attr_name=attribute, type=AttributeProto.FLOAT))
        self.nodes.append(node)
        return output
