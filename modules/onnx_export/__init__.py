"""Export of text encoders to ONNX; torch.onnx, onnxscript and onnxruntime come with the extra ``onnx``."""
