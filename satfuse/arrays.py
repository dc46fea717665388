"""Names for the kinds of numpy arrays; shapes and units stand in the docstrings."""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]  # reflectance is float32, geometry float64
IntArray = npt.NDArray[np.integer[Any]]  # digital numbers, classes, flags, indices
BoolArray = npt.NDArray[np.bool_]  # True = usable, unless the docstring says otherwise
