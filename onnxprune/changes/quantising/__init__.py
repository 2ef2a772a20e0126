"""8-bit integers for weights and values as the last step of a run, by ONNX Runtime's quantiser: which recipe, as data judges."""
