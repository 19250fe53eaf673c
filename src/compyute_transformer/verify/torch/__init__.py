"""PyTorch versions of the models: `NAME.py` holds that of the record `NAME` of `models/registry.py`.

Each has one function, `logits(weights, config, *inputs, drop)`: weights by path and inputs are tensors, and `drop`
drops the same elements as the model. It calls plain torch functions, and nothing of `ops`, `nn` or `models`.
"""
