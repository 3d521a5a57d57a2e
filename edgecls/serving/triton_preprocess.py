"""The step in Triton's Python backend that decodes images; imported inside of that server alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecls.artifact.card import INPUT_NAME, read_card
from edgecls.errors import EdgeclsError
from edgecls.imaging.decode import as_bgr
from edgecls.serving.triton import ENCODED


class TritonPythonModel:
    """Decodes and preprocesses as `edgecls predict` does: bytes of image files (N, 1) to uint8 RGB (N, h, w, 3)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card that lies beside this version of the model."""
        self._preprocess = read_card(Path(args["model_repository"]) / args["model_version"]).preprocess

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer some requests, each for itself: an image that cannot be read fails its own request alone."""
        return [self._answered(each) for each in requests]

    def _answered(self, request: Any) -> Any:
        import numpy as np
        import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

        encoded = pb_utils.get_input_tensor_by_name(request, ENCODED).as_numpy()
        try:
            images = [self._preprocess(as_bgr(each, geometry=self._preprocess)) for each in encoded.ravel()]
        except EdgeclsError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor(INPUT_NAME, np.stack(images))])
