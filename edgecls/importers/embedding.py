"""Somebody's ONNX classifier, so changed that it takes raw images as every graph of ours does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME
from edgecls.artifact.terms import Output
from edgecls.backends.onnx_graph import NORMALIZE_PREFIX, constants_of, drop_unused, graphs_inside, inputs_of
from edgecls.errors import ArtifactError, first_line
from edgecls.importers.classifier import Classifier, Pixels, output_kind
from edgecls.importers.equivalence import CHECKED_IMAGES, difference, random_patches, scale_and_shift, untouched_scores

GREY_WEIGHTS = (9798, 19235, 3735)
"""ITU-R BT.601's shares of red, green and blue in 1/32768, with which OpenCV converts to grey."""
_OWN_PREFIXES = (NORMALIZE_PREFIX, f"{OUTPUT_NAME}.")
_FOREIGN_PREFIX = "imported."


def embed_preprocessing(
    theirs: Classifier, pixels: Pixels, size_px: tuple[int, int], classes: int, out: Path
) -> Output:
    """Write somebody's classifier to `out` so that it takes raw images.

    It then takes (N, h, w, 3) uint8 RGB and gives (N, C) float32; N is free, normalization is inside. Both graphs are
    run on a few images. Raises `ArtifactError` where their answers differ, or where theirs cannot be run.
    """
    images = random_patches(CHECKED_IMAGES + (theirs.batch == CHECKED_IMAGES), size_px)
    wanted = untouched_scores(theirs, pixels, images, classes)
    rank, wanted = wanted.ndim, wanted.reshape(len(images), classes)
    model = _changed(theirs, pixels, size_px, classes, flatten=rank != 2)
    _save(model, out, theirs.file)
    reason = difference(theirs, out, images, wanted)
    if reason and _free_batch(model, theirs.batch or 1):
        _save(model, out, theirs.file)
        reason = difference(theirs, out, images, wanted)
    if reason:
        out.unlink()
        raise ArtifactError(
            f"{theirs.file} cannot be run on several images at once ({reason}); export it again with a free (dynamic) "
            "batch dimension"
        )
    return output_kind(out, wanted)


def _changed(theirs: Classifier, pixels: Pixels, size_px: tuple[int, int], classes: int, flatten: bool) -> Any:
    from onnx import TensorProto, helper

    model = type(theirs.model).FromString(theirs.model.SerializeToString())
    image, scores = _out_of_the_way(model, theirs.image, theirs.scores)
    _append_float_scores(model, scores, classes, flatten)
    _prepend_normalization(model, image, theirs, pixels)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", *size_px, 3]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", classes]))
    del model.graph.value_info[:]  # shapes inside were inferred for another batch
    drop_unused(model.graph)
    _name_nodes(model)
    return model


def _save(model: Any, out: Path, file: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
        onnx.save(model, out)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ArtifactError(f"{file} is no valid ONNX model ({first_line(error)})") from error


def _out_of_the_way(model: Any, image: str, scores: str) -> tuple[str, str]:
    """Rename everything where a name is one of ours; returns those of the input and the chosen output."""
    import onnx

    names = {image, scores}
    for graph in graphs_inside(model.graph):
        names.update(tensor.name for tensor in graph.initializer)
        names.update(name for node in graph.node for name in (node.name, *node.input, *node.output))
    if any(name in (INPUT_NAME, OUTPUT_NAME) or name.startswith(_OWN_PREFIXES) for name in names):
        onnx.compose.add_prefix(model, _FOREIGN_PREFIX, inplace=True)
        return _FOREIGN_PREFIX + image, _FOREIGN_PREFIX + scores
    return image, scores


def _append_float_scores(model: Any, scores: str, classes: int, flatten: bool) -> None:
    """Let the graph end in `OUTPUT_NAME`, (N, C) float32."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes = model.graph.node
    kind = next(entry.type.tensor_type.elem_type for entry in model.graph.output if entry.name == scores)
    last = scores
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [last], [f"{OUTPUT_NAME}.float"], to=TensorProto.FLOAT))
        last = f"{OUTPUT_NAME}.float"
    if flatten:
        shape = f"{OUTPUT_NAME}.shape"
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, classes], np.int64), shape))
        nodes.append(helper.make_node("Reshape", [last, shape], [f"{OUTPUT_NAME}.flat"]))
        last = f"{OUTPUT_NAME}.flat"
    _rename(model, last, OUTPUT_NAME)


def _rename(model: Any, old: str, new: str) -> None:
    """Give a tensor another name everywhere."""
    for graph in graphs_inside(model.graph):
        for node in graph.node:
            for each in (node.input, node.output):
                for index, name in enumerate(each):
                    if name == old:
                        each[index] = new


def _prepend_normalization(model: Any, image: str, theirs: Classifier, pixels: Pixels) -> None:
    """Make `image`, as their network wants it, from raw images.

    The cast stands first because TensorRT transposes no uint8.
    """
    from onnx import TensorProto, helper

    constants = model.graph.initializer
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Cast", [], {"to": TensorProto.FLOAT})]
    if theirs.channels == 1:
        weights = [[[[weight / 32768 for weight in GREY_WEIGHTS]]]]
        steps += [
            ("Mul", [_constant(constants, "weights", weights)], {}),
            ("ReduceSum", [_constant(constants, "channel", [3], "int64")], {"keepdims": 1}),
            ("Add", [_constant(constants, "half", 0.5)], {}),
            ("Floor", [], {}),
        ]
    if not theirs.channels_last:
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if not theirs.takes_raw_pixels:
        scale, shift = scale_and_shift(theirs, pixels)
        steps.append(("Mul", [_constant(constants, "scale", scale)], {}))
        steps.append(("Sub", [_constant(constants, "shift", shift)], {}))
    if theirs.kind != "FLOAT":
        steps.append(("Cast", [], {"to": TensorProto.DataType.Value(theirs.kind)}))
    source = INPUT_NAME
    for position, (operator, others, attributes) in enumerate(steps):
        target = image if position == len(steps) - 1 else f"{NORMALIZE_PREFIX}{position}"
        node = helper.make_node(operator, [source, *others], [target], **attributes)
        node.name = f"{NORMALIZE_PREFIX}{operator}_{position}"
        model.graph.node.insert(position, node)
        source = target


def _constant(constants: Any, name: str, values: Any, dtype: str = "float32") -> str:
    import numpy as np
    from onnx import numpy_helper

    constants.append(numpy_helper.from_array(np.asarray(values, dtype), f"{NORMALIZE_PREFIX}{name}"))
    return f"{NORMALIZE_PREFIX}{name}"


def _free_batch(model: Any, batch: int) -> bool:
    """Let each Reshape of what is made from the image keep the batch as it comes; whether there was one to change."""
    import numpy as np
    from onnx import numpy_helper

    constants, changed = constants_of(model.graph), False
    from_image = {INPUT_NAME}
    for index, node in enumerate(model.graph.node):
        if from_image.isdisjoint(inputs_of(node)):
            continue
        from_image.update(node.output)
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).tolist()
        if not isinstance(shape, list) or shape[:1] != [batch]:
            continue
        keeps_zero = any(each.name == "allowzero" and each.i for each in node.attribute)
        if -1 not in shape or not keeps_zero:
            shape[0] = -1 if -1 not in shape else 0
            node.input[1] = f"{OUTPUT_NAME}.free_batch_{index}"
            model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), node.input[1]))
            changed = True
    return changed


def _name_nodes(model: Any) -> None:
    """Names by which a quantizer can leave layers out; some exporters give none, or the same one twice."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"/imported/{node.op_type}_{index}"
        seen.add(node.name)
