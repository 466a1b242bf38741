"""Sparse Keras models: techniques that make them so as they train, side by side.

import state_of_sparsity as sos

technique = sos.MagnitudePruning(0.9, begin_step=0, end_step=500, frequency=50)
sparse = sos.sparsify(model, technique)
sparse.compile(...)
sparse.fit(..., callbacks=sos.callbacks(sparse))
print(sos.sparsity_report(sparse))
sos.export_saved_model(sparse, path)
"""

import importlib

__version__ = "0.4.0"

# Public names and the modules that they come from when they are first used:
# importing this package imports no Keras and no framework. Which ones there are, the
# user decides.
_HOMES = {
    "ACDC": "techniques",
    "ActivationReport": "activations",
    "Budget": "budgets",
    "ERK": "budgets",
    "Feather": "techniques",
    "FirstDenseLastCapped": "budgets",
    "FisherPruning": "techniques",
    "FixedMask": "techniques",
    "Flops": "flops",
    "Global": "budgets",
    "GraNet": "techniques",
    "GraSP": "techniques",
    "GroupLasso": "techniques",
    "L0Regularization": "techniques",
    "LayerActivations": "activations",
    "MagnitudePruning": "techniques",
    "MovementPruning": "techniques",
    "OWL": "budgets",
    "Powerpropagation": "techniques",
    "RandomPruning": "techniques",
    "RigL": "techniques",
    "SET": "techniques",
    "SNIP": "techniques",
    "SRSTE": "techniques",
    "ST3": "techniques",
    "STR": "techniques",
    "SaliencyPruning": "techniques",
    "SparseGPT": "techniques",
    "SparsityReport": "report",
    "Spartan": "techniques",
    "SynFlow": "techniques",
    "TECHNIQUES": "techniques",
    "Table": "budgets",
    "Technique": "techniques",
    "Uniform": "budgets",
    "VariationalDropout": "techniques",
    "Wanda": "techniques",
    "WeightReport": "report",
    "activation_sparsity": "activations",
    "augment": "initializers",
    "callbacks": "training_callbacks",
    "count_flops": "flops",
    "count_training_flops": "flops",
    "export": "exporting",
    "export_saved_model": "exporting",
    "load_masks": "mask_files",
    "one_shot": "one_shot_pruning",
    "planned_sparsities": "forecast",
    "quantize": "quantization",
    "recalibrate": "recalibration",
    "save_masks": "mask_files",
    "shrink": "shrinking",
    "shuffle_masks": "mask_files",
    "slim": "slimming",
    "sparsify": "conversion",
    "sparsity_report": "report",
    "strip": "conversion",
    "weight_masks": "report",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    if name == "runtime":
        return importlib.import_module(f"{__name__}.runtime")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(module, name)


def __dir__():
    return sorted([*globals(), *__all__])
