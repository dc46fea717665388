"""Names of the fusion models, for help texts and messages that must not import torch.

`satfuse.models` checks on import that they are the names of its classes.
"""

DEFAULT = "bayesian"
# Used by name: they need no weights, or their weights are in the package. The default comes first.
BY_NAME = (
    DEFAULT,
    "bicubic",
    "regression",
    "atprk",
    "gsa",
    "mtf_glp",
    "mtf_glp_hpm",
    "cnmf",
    "spectralift",
)
# Used by the folder of a checkpoint, since they must be trained first.
BY_CHECKPOINT = ("library_regression", "ssrnet", "spectral", "fusformer")
CHOICE = (
    f"{DEFAULT} (the default), {', '.join(BY_NAME[1:])}; "
    f"or the folder of a checkpoint, as {', '.join(BY_CHECKPOINT)} need one"
)
