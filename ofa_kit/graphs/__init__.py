"""ONNX graphs straight from the lowering: the graph that is profiled is the graph that is deployed. No torch."""
