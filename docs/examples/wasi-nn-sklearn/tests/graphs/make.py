"""Makes the models of the tests (python tests/graphs/make.py)."""

from pathlib import Path

import numpy as np
import skops.io
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent


def scaler(factor):
    """Multiplies four features by a factor."""
    spread = np.array([[-1.0] * 4, [1.0] * 4]) / factor
    return make_pipeline(StandardScaler(with_mean=False).fit(spread))


if __name__ == "__main__":
    skops.io.dump(scaler(1), HERE / "identity.skops")
    skops.io.dump(scaler(2), HERE / "batch.skops")
