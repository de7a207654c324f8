"""When the outputs of an export count as those of the model; real exports: tests/docs/test_from_run_to_use.py."""

import numpy as np
import pytest

from experiments.comparison.export import FailedExportError, check_exported_outputs

EXPECTED = np.array([[0.5, 0.4, 0.1], [0.0, 0.3, 0.7]], np.float32)


def test_outputs_that_differ_are_refused() -> None:
    assert check_exported_outputs(EXPECTED, EXPECTED + np.float32(5e-5), "onnx") == pytest.approx(5e-5, rel=1e-2)
    assert check_exported_outputs(np.array([[1000.0]]), np.array([[1000.05]]), "onnx") == pytest.approx(0.05)
    with pytest.raises(FailedExportError) as caught:
        check_exported_outputs(EXPECTED, EXPECTED[:, ::-1], "onnx")
    assert str(caught.value) == (
        "As onnx the outputs differ from the model's by up to 0.7 (allowed: 0.0001), and in the class of 2 of 2 test"
        " examples. Nothing was kept."
    )
    close = np.array([[0.50002, 0.50001]], np.float32)
    with pytest.raises(FailedExportError, match="in the class of 1 of 1"):
        check_exported_outputs(close, close[:, ::-1], "keras")
    with pytest.raises(FailedExportError, match=r"the shape \(2, 1\), not \(2, 3\)"):
        check_exported_outputs(EXPECTED, EXPECTED[:, :1], "keras")
