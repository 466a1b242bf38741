"""ONNX graphs as TensorFlow functions: what the exports of Keras models contain.

`graph` goes through the nodes, `operators` has a line for each operator, `spatial` and
`recurrence` what takes more. Importing `graph` imports TensorFlow.
"""
