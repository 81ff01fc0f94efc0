"""The array type of annotations.

Axes are named alike in the whole package: B batch, H W pixels, C channels, h w token grid, N = h * w
tokens, D channels of a token, P values of a patch, K prefix tokens such as cls. An asterisk stands for any
number of axes. Tests check shapes and dtypes at every call; otherwise annotations cost nothing.
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray
