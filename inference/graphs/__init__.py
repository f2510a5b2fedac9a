"""Functions of tensors as graphs: captured, compiled, and held against what they were captured from."""
