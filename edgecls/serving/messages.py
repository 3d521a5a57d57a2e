"""The messages of the protocol's gRPC form and of gRPC's health check, described here in place of generated code.

Numbers and types are those of the published `grpc_service.proto` (KServe, Triton) and `health.proto`. They live in a
pool of their own, so that a process may import a client's generated code beside them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

_INFERENCE: dict[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3; "
    "repeated ModelMetadataResponse.TensorMetadata inputs = 4; "
    "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    "ModelMetadataResponse.TensorMetadata": "string name = 1; string datatype = 2; repeated int64 shape = 3",
    "InferParameter": "oneof bool bool_param = 1; oneof int64 int64_param = 2; oneof string string_param = 3; "
    "oneof double double_param = 4; oneof uint64 uint64_param = 5",
    "InferTensorContents": "repeated bool bool_contents = 1; repeated int32 int_contents = 2; "
    "repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; "
    "repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8",
    "ModelInferRequest": "string model_name = 1; string model_version = 2; string id = 3; "
    "map InferParameter parameters = 4; repeated ModelInferRequest.InferInputTensor inputs = 5; "
    "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6; repeated bytes raw_input_contents = 7",
    "ModelInferRequest.InferInputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3; "
    "map InferParameter parameters = 4; InferTensorContents contents = 5",
    "ModelInferRequest.InferRequestedOutputTensor": "string name = 1; map InferParameter parameters = 2",
    "ModelInferResponse": "string model_name = 1; string model_version = 2; string id = 3; "
    "map InferParameter parameters = 4; repeated ModelInferResponse.InferOutputTensor outputs = 5; "
    "repeated bytes raw_output_contents = 6",
    "ModelInferResponse.InferOutputTensor": "string name = 1; string datatype = 2; repeated int64 shape = 3; "
    "map InferParameter parameters = 4; InferTensorContents contents = 5",
    "ModelStatisticsRequest": "string name = 1; string version = 2",
    "ModelStatisticsResponse": "repeated ModelStatistics model_stats = 1",
    "StatisticDuration": "uint64 count = 1; uint64 ns = 2",
    "InferStatistics": "StatisticDuration success = 1; StatisticDuration fail = 2; StatisticDuration queue = 3; "
    "StatisticDuration compute_input = 4; StatisticDuration compute_infer = 5; StatisticDuration compute_output = 6",
    "InferBatchStatistics": "uint64 batch_size = 1; StatisticDuration compute_input = 2; "
    "StatisticDuration compute_infer = 3; StatisticDuration compute_output = 4",
    "ModelStatistics": "string name = 1; string version = 2; uint64 last_inference = 3; uint64 inference_count = 4; "
    "uint64 execution_count = 5; InferStatistics inference_stats = 6; repeated InferBatchStatistics batch_stats = 7",
    "ModelRepositoryParameter": "oneof bool bool_param = 1; oneof int64 int64_param = 2; "
    "oneof string string_param = 3; oneof bytes bytes_param = 4",
    "RepositoryIndexRequest": "string repository_name = 1; bool ready = 2",
    "RepositoryIndexResponse": "repeated RepositoryIndexResponse.ModelIndex models = 1",
    "RepositoryIndexResponse.ModelIndex": "string name = 1; string version = 2; string state = 3; string reason = 4",
    "RepositoryModelLoadRequest": "string repository_name = 1; string model_name = 2; "
    "map ModelRepositoryParameter parameters = 3",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "string repository_name = 1; string model_name = 2; "
    "map ModelRepositoryParameter parameters = 3",
    "RepositoryModelUnloadResponse": "",
}
_HEALTH: dict[str, str] = {
    "HealthCheckRequest": "string service = 1",
    "HealthCheckResponse": "int32 status = 1",  # an enum, which is the same on the wire
}
SERVING, NOT_SERVING = 1, 2
"""Of the health check."""


@cache
def messages() -> dict[str, Any]:
    """The classes of all messages, by their names without the package."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    classes = {}
    for package, described in (("inference", _INFERENCE), ("grpc.health.v1", _HEALTH)):
        pool.Add(_file(package, described))
        for name in described:
            descriptor = pool.FindMessageTypeByName(f"{package}.{name}")
            classes[name] = message_factory.GetMessageClass(descriptor)
    return classes


def _file(package: str, described: dict[str, str]) -> Any:
    from google.protobuf import descriptor_pb2

    file = descriptor_pb2.FileDescriptorProto(name=f"edgecls/{package}.proto", package=package, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in described.items():
        outer, _, own = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=own)
        for text in filter(None, fields.split("; ")):
            _add_field(made[name], text, f".{package}", name)
    return file


def _add_field(message: Any, text: str, package: str, name: str) -> None:
    """Describe a field such as `repeated string extensions = 3`; `oneof` puts it into the message's only one."""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    *label, kind, field_name, _, number = text.split(" ")
    word = label[0] if label else ""
    field = message.field.add(name=field_name, number=int(number), label=Field.LABEL_OPTIONAL)
    if word in ("repeated", "map"):
        field.label = Field.LABEL_REPEATED
    if word == "oneof":
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0
    if word == "map":
        entry = message.nested_type.add(name=f"{field_name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "string key = 1", package, "")
        _add_field(entry, f"{kind} value = 2", package, "")
        kind = f"{name}.{entry.name}"
    if kind[0].isupper():
        field.type, field.type_name = Field.TYPE_MESSAGE, f"{package}.{kind}"
    else:
        field.type = getattr(Field, f"TYPE_{kind.upper()}")
