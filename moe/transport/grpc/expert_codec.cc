#include "moe/transport/grpc/expert_codec.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "conclave/v1/expert.pb.h"
#include "conclave/v1/tensor.pb.h"
#include "google/protobuf/io/coded_stream.h"
#include "moe/base/protocol_version.h"
#include "moe/base/status_macros.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/checksum.h"
#include "moe/transport/copy_rows.h"

namespace conclave {
namespace {

absl::StatusOr<DType> FromProto(v1::DType dtype, absl::string_view field) {
  switch (dtype) {
    case v1::DTYPE_F32:
      return DType::kF32;
    case v1::DTYPE_BF16:
      return DType::kBF16;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": ", static_cast<int>(dtype), " is no dtype in which rows travel (F32 or BF16)"));
  }
}

v1::DType ToProto(DType dtype) { return dtype == DType::kBF16 ? v1::DTYPE_BF16 : v1::DTYPE_F32; }

void SetShape(int64_t rows, int64_t cols, DType dtype, v1::Tensor* tensor) {
  tensor->set_dtype(ToProto(dtype));
  tensor->mutable_shape()->Resize(2, 0);
  tensor->set_shape(0, rows);
  tensor->set_shape(1, cols);
  tensor->mutable_data()->resize(rows * cols * SizeOf(dtype));
}

// The byte that begins a field of bytes or of a message (protobuf's encoding, wire type 2).
constexpr uint8_t BytesTag(int field) { return static_cast<uint8_t>(field << 3 | 2); }
static_assert(v1::ExpertRequest::kRowsFieldNumber < 16 && v1::Tensor::kDataFieldNumber < 16);

// A view of `tensor`'s own bytes; where they are packed, of its shape alone. No product can wrap: factors are limited.
absl::StatusOr<ConstMatView> RowsOf(const v1::Tensor& tensor, bool packed = false) {
  ConstMatView rows;
  ASSIGN_OR_RETURN(rows.dtype, FromProto(tensor.dtype(), "rows.dtype"));
  if (tensor.shape_size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat("rows.shape: ", tensor.shape_size(), " dimensions instead of 2"));
  }
  rows.rows = tensor.shape(0);
  rows.cols = tensor.shape(1);
  rows.stride = rows.cols;
  rows.data = tensor.data().data();
  if (rows.rows < 0 || rows.rows > limits::kCallBytesMax || rows.cols < 1 || rows.cols > limits::kHiddenMax) {
    return absl::InvalidArgumentError(absl::StrCat("rows.shape: [", rows.rows, ", ", rows.cols, "] is out of range"));
  }
  const int64_t bytes = rows.rows * (packed ? Fp8RowBytes(rows.cols) : rows.cols * SizeOf(rows.dtype));
  if (bytes != static_cast<int64_t>(tensor.data().size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows.data: ", tensor.data().size(), " bytes where dtype and shape say ", bytes));
  }
  return rows;
}

// Unpacks the rows of `proto`, whose shape is `rows`, to memory of `decoded`.
absl::Status Unpack(const v1::ExpertRequest& proto, const ConstMatView& rows, DecodedCall* decoded) {
  const int64_t bytes = rows.rows * rows.cols * SizeOf(rows.dtype);
  if (bytes > limits::kCallBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("rows.data: ", bytes, " bytes once unpacked"));
  }
  MatBuffer& memory = decoded->unpacked;
  const MatView held = memory.view();
  if (held.dtype != rows.dtype || held.cols != rows.cols || held.rows < rows.rows) {
    memory = MatBuffer(rows.dtype, rows.rows, rows.cols);
  }
  const MatView unpacked = memory.first(rows.rows);
  UnpackFp8(reinterpret_cast<const std::byte*>(proto.rows().data().data()), unpacked);
  decoded->call.rows = unpacked;
  return absl::OkStatus();
}

// Fills `decoded` as far as lengths decide it: every span lies within the message.
absl::Status DecodeLengths(const v1::ExpertRequest& proto, absl::Time arrival, DecodedCall* decoded) {
  ExpertCall& call = decoded->call;
  call.call_id = proto.call_id();
  call.placement_epoch = proto.placement_epoch();
  call.layer = LayerId{proto.layer()};
  ASSIGN_OR_RETURN(call.rows, RowsOf(proto.rows(), proto.rows_packed()));
  call.format = proto.rows_packed() ? RowFormat::kFp8 : RowFormat::kCompute;
  if (proto.rows_packed()) RETURN_IF_ERROR(Unpack(proto, call.rows, decoded));
  if (proto.experts_per_row_size() != call.rows.rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("experts_per_row: ", proto.experts_per_row_size(), " entries for ", call.rows.rows, " rows"));
  }
  decoded->row_offsets.clear();
  decoded->row_offsets.push_back(0);
  for (int i = 0; i < proto.experts_per_row_size(); ++i) {
    const uint32_t count = proto.experts_per_row(i);
    const uint32_t left = static_cast<uint32_t>(proto.experts_size()) - decoded->row_offsets.back();
    if (count > left) {
      return absl::InvalidArgumentError(
          absl::StrCat("experts_per_row[", i, "]: ", count, " where experts has ", left, " ids left"));
    }
    decoded->row_offsets.push_back(decoded->row_offsets.back() + count);
  }
  call.row_offsets = decoded->row_offsets;
  call.experts = absl::MakeConstSpan(proto.experts().data(), proto.experts_size());
  const uint64_t timeout_us = std::min<uint64_t>(proto.timeout_us(), uint64_t{86400} * 1'000'000);
  call.deadline = timeout_us == 0 ? absl::InfiniteFuture() : arrival + absl::Microseconds(timeout_us);
  return absl::OkStatus();
}

}  // namespace

absl::Status DecodeExpertRequest(const v1::ExpertRequest& proto, const CallLimits& limits, absl::Time arrival,
                                 DecodedCall* decoded) {
  const absl::Status lengths = DecodeLengths(proto, arrival, decoded);
  // First, so that a damaged index is not taken for its sender's fault. No sender can make a checksum over lengths that
  // contradict each other.
  if (proto.has_checksum() && !(lengths.ok() && proto.checksum() == ChecksumOfCall(decoded->call))) {
    return absl::DataLossError("checksum: the request was damaged on the way");
  }
  RETURN_IF_ERROR(lengths);
  return ValidateExpertCall(decoded->call, limits);
}

void EncodeExpertRequest(const ExpertCall& call, absl::Time now, bool with_checksum, bool packed,
                         v1::ExpertRequest* scratch, absl::FunctionRef<uint8_t*(size_t bytes)> allocate) {
  using google::protobuf::io::CodedOutputStream;
  v1::ExpertRequest& proto = *scratch;
  proto.set_call_id(call.call_id);
  proto.set_placement_epoch(call.placement_epoch);
  proto.set_layer(Value(call.layer));
  proto.mutable_experts_per_row()->Resize(static_cast<int>(call.rows.rows), 0);
  for (int i = 0; i < static_cast<int>(call.rows.rows); ++i) {
    proto.set_experts_per_row(i, call.row_offsets[i + 1] - call.row_offsets[i]);
  }
  proto.mutable_experts()->Resize(static_cast<int>(call.pairs()), 0);
  std::copy(call.experts.begin(), call.experts.end(), proto.mutable_experts()->mutable_data());
  const bool limited = call.deadline != absl::InfiniteFuture();
  // A deadline that has passed already still needs a timeout: 0 would mean none.
  proto.set_timeout_us(limited ? std::max<int64_t>(absl::ToInt64Microseconds(call.deadline - now), 1) : 0);
  proto.set_rows_packed(packed);
  proto.clear_checksum();
  if (with_checksum) proto.set_checksum(ChecksumOfCall(call));
  // The rows follow by hand, as the last field: their shape by protobuf once more, then their bytes. Were they a field
  // of the message, protobuf would copy them a second time.
  v1::Tensor shape;
  shape.set_dtype(ToProto(call.rows.dtype));
  shape.add_shape(call.rows.rows);
  shape.add_shape(call.rows.cols);
  const int64_t row_bytes = packed ? Fp8RowBytes(call.rows.cols) : call.rows.cols * SizeOf(call.rows.dtype);
  const auto data_bytes = static_cast<uint32_t>(call.rows.rows * row_bytes);
  const auto shape_bytes = static_cast<uint32_t>(shape.ByteSizeLong());
  const uint32_t tensor_bytes =
      shape_bytes + 1 + static_cast<uint32_t>(CodedOutputStream::VarintSize32(data_bytes)) + data_bytes;
  const size_t head_bytes = proto.ByteSizeLong();
  uint8_t* at = allocate(head_bytes + 1 + CodedOutputStream::VarintSize32(tensor_bytes) + tensor_bytes);
  at = proto.SerializeWithCachedSizesToArray(at);
  *at++ = BytesTag(v1::ExpertRequest::kRowsFieldNumber);
  at = CodedOutputStream::WriteVarint32ToArray(tensor_bytes, at);
  at = shape.SerializeWithCachedSizesToArray(at);
  *at++ = BytesTag(v1::Tensor::kDataFieldNumber);
  at = CodedOutputStream::WriteVarint32ToArray(data_bytes, at);
  if (packed) return PackFp8(call.rows, reinterpret_cast<std::byte*>(at));
  CopyRows(call.rows, MatView{at, call.rows.dtype, Device::kCpu, call.rows.rows, call.rows.cols, call.rows.cols});
}

MatView PrepareExpertReply(const ExpertCall& call, v1::ExpertReply* proto) {
  proto->set_call_id(call.call_id);
  proto->set_status_code(0);
  proto->clear_status_message();
  proto->clear_checksum();
  proto->set_takes_packed_rows(true);
  const ConstMatView& rows = call.rows;
  SetShape(call.pairs(), rows.cols, rows.dtype, proto->mutable_rows());
  return MatView{
      proto->mutable_rows()->mutable_data()->data(), rows.dtype, Device::kCpu, call.pairs(), rows.cols, rows.cols};
}

void SealExpertReply(ConstMatView rows, v1::ExpertReply* proto) {
  proto->set_checksum(ChecksumOfReply(proto->call_id(), rows));
}

void EncodeExpertError(const v1::ExpertRequest& request, const absl::Status& status, v1::ExpertReply* proto) {
  proto->set_call_id(request.call_id());
  proto->set_status_code(static_cast<int>(status.code()));
  proto->set_status_message(std::string(status.message()));
  proto->clear_rows();
  proto->clear_checksum();
  proto->set_takes_packed_rows(true);
  if (request.has_checksum()) {
    proto->set_checksum(ChecksumOfError(request.call_id(), proto->status_code(), proto->status_message()));
  }
}

absl::Status DecodeExpertReply(const v1::ExpertReply& proto, bool needs_checksum, MatView out) {
  if (proto.status_code() != 0) {
    const bool known =
        proto.status_code() > 0 && proto.status_code() <= static_cast<int>(absl::StatusCode::kUnauthenticated);
    if (!known) return absl::DataLossError(absl::StrCat("reply: status_code ", proto.status_code(), " is unknown"));
    if (proto.has_checksum() &&
        proto.checksum() != ChecksumOfError(proto.call_id(), proto.status_code(), proto.status_message())) {
      return absl::DataLossError("reply: an error that was damaged on the way: its checksum is wrong");
    }
    return absl::Status(static_cast<absl::StatusCode>(proto.status_code()), proto.status_message());
  }
  const absl::StatusOr<ConstMatView> rows = RowsOf(proto.rows());
  if (!rows.ok()) return absl::DataLossError(absl::StrCat("reply: ", std::string(rows.status().message())));
  if (rows->rows != out.rows || rows->cols != out.cols || rows->dtype != out.dtype) {
    return absl::DataLossError(absl::StrCat("reply: rows are [", rows->rows, ", ", rows->cols, "] instead of [",
                                            out.rows, ", ", out.cols, "], or of another dtype"));
  }
  if (proto.has_checksum() ? proto.checksum() != ChecksumOfReply(proto.call_id(), *rows) : needs_checksum) {
    return absl::DataLossError("reply: damaged on the way: its checksum is wrong or missing");
  }
  CopyRows(*rows, out);
  return absl::OkStatus();
}

void EncodeHoldings(absl::Span<const LayerHolding> holdings,
                    google::protobuf::RepeatedPtrField<v1::LayerHolding>* proto) {
  proto->Clear();
  for (const LayerHolding& holding : holdings) {
    v1::LayerHolding* out = proto->Add();
    out->set_layer(Value(holding.layer));
    for (const ExpertId expert : holding.experts) out->add_experts(Value(expert));
  }
}

absl::StatusOr<std::vector<LayerHolding>> DecodeHoldings(
    const google::protobuf::RepeatedPtrField<v1::LayerHolding>& proto) {
  if (proto.size() > limits::kLayersMax) {
    return absl::InvalidArgumentError(absl::StrCat("holdings: ", proto.size(), " layers"));
  }
  std::vector<LayerHolding> holdings;
  for (const v1::LayerHolding& holding : proto) {
    LayerHolding out{LayerId{holding.layer()}, {}};
    if (holding.experts_size() > limits::kExpertsPerLayerMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("holdings: ", holding.experts_size(), " experts in layer ", holding.layer()));
    }
    for (const int32_t expert : holding.experts()) out.experts.push_back(ExpertId{expert});
    holdings.push_back(std::move(out));
  }
  return holdings;
}

void EncodeDescription(const ShardDescription& description, v1::DescribeResponse* proto) {
  proto->set_protocol_version(static_cast<uint32_t>(AnnouncedProtocolVersion()));
  proto->set_name(description.name);
  proto->set_model_fingerprint(description.model_fingerprint);
  proto->set_numeric_profile(description.numeric_profile);
  proto->set_placement_epoch(description.placement_epoch);
  proto->set_hidden_size(description.hidden);
  proto->set_row_dtype(ToProto(description.row_dtype));
  proto->set_expert_bytes(description.expert_bytes);
  proto->set_expert_bytes_max(description.expert_bytes_max);
  proto->set_revision(description.revision);
  proto->set_experts_per_layer(description.experts_per_layer);
  proto->set_replicas(description.replicas);
  EncodeHoldings(description.holdings, proto->mutable_holdings());
}

absl::StatusOr<ShardDescription> DecodeDescription(const v1::DescribeResponse& proto) {
  RETURN_IF_ERROR(CheckProtocolVersion(absl::StrCat("expert shard ", proto.name()),
                                       static_cast<int>(proto.protocol_version())));
  ShardDescription description;
  description.name = proto.name();
  description.model_fingerprint = proto.model_fingerprint();
  description.numeric_profile = proto.numeric_profile();
  description.placement_epoch = proto.placement_epoch();
  description.hidden = proto.hidden_size();
  description.expert_bytes = proto.expert_bytes();
  ASSIGN_OR_RETURN(description.row_dtype, FromProto(proto.row_dtype(), "row_dtype"));
  if (proto.hidden_size() < 1 || proto.hidden_size() > limits::kHiddenMax) {
    return absl::InvalidArgumentError(absl::StrCat("hidden_size: ", proto.hidden_size(), " is out of range"));
  }
  description.expert_bytes_max = proto.expert_bytes_max();
  description.revision = proto.revision();
  if (proto.experts_per_layer() < 0 || proto.experts_per_layer() > limits::kExpertsPerLayerMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("experts_per_layer: ", proto.experts_per_layer(), " is out of range"));
  }
  description.experts_per_layer = proto.experts_per_layer();
  description.replicas = std::max(1, proto.replicas());
  ASSIGN_OR_RETURN(description.holdings, DecodeHoldings(proto.holdings()));
  return description;
}

void EncodeTokens(absl::Span<const LayerTokens> tokens, v1::DescribeResponse* proto) {
  for (const LayerTokens& layer : tokens) {
    v1::LayerTokens* out = proto->add_tokens();
    out->set_layer(Value(layer.layer));
    out->mutable_tokens()->Add(layer.tokens.begin(), layer.tokens.end());
  }
}

absl::StatusOr<std::vector<LayerTokens>> DecodeTokens(const v1::DescribeResponse& proto) {
  if (proto.tokens_size() > limits::kLayersMax) {
    return absl::InvalidArgumentError(absl::StrCat("tokens: ", proto.tokens_size(), " layers"));
  }
  std::vector<LayerTokens> tokens;
  for (const v1::LayerTokens& layer : proto.tokens()) {
    if (layer.tokens_size() > limits::kExpertsPerLayerMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokens: ", layer.tokens_size(), " experts in layer ", layer.layer()));
    }
    tokens.push_back({LayerId{layer.layer()}, {layer.tokens().begin(), layer.tokens().end()}});
  }
  return tokens;
}

}  // namespace conclave
