"""A graph with weights of 8 bits, whose activations are quantized as they come."""

import logging
from pathlib import Path


def quantize(graph: Path, out: Path) -> None:
    """Write a graph with weights of 8 bits, each column by its own range, by onnxruntime's dynamic quantization.

    Layers that narrow keep their weights: what the wide part of a feed-forward network hands them has outliers, which
    cost more precision than all other layers together.

    Args:
        graph: the file of the graph.
        out: the file to write.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # a remark on preprocessing, which is for graphs without shapes
    try:
        quantize_dynamic(
            graph,
            out,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=narrowing_layers(graph),
            use_external_data_format=graph.with_name(f"{graph.name}.data").exists(),
        )
    finally:
        logging.disable(logging.NOTSET)


def narrowing_layers(graph: Path) -> list[str]:
    """Return the names of the linear layers of a graph that have fewer outputs than inputs."""
    import onnx

    content = onnx.load(graph, load_external_data=False).graph
    shapes = {weight.name: tuple(weight.dims) for weight in content.initializer}
    layers = [node for node in content.node if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == 2]
    return [node.name for node in layers if shapes[node.input[1]][0] > shapes[node.input[1]][1]]
