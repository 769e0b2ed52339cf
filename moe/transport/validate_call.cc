#include "moe/transport/validate_call.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tensor/finite_rows.h"

namespace conclave {
namespace {

absl::Status OutOfRange(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, " is not in [", low, ", ", high, "]"));
}

absl::Status CheckRows(const ConstMatView& rows, const CallLimits& limits) {
  if (rows.dtype != DType::kF32 && rows.dtype != DType::kBF16) {
    return absl::InvalidArgumentError("rows.dtype: rows travel as F32 or BF16 only");
  }
  if (rows.device != Device::kCpu && !limits.device_rows) {
    return absl::InvalidArgumentError("rows: not in this process's memory");
  }
  if (rows.rows < 0 || rows.rows > limits.rows_max) return OutOfRange("rows.shape[0]", rows.rows, 0, limits.rows_max);
  if (limits.hidden > 0 && rows.cols != limits.hidden) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows.shape[1]: ", rows.cols, " is not this model's hidden size, ", limits.hidden));
  }
  if (rows.cols < 1 || rows.cols > limits::kHiddenMax) {
    return OutOfRange("rows.shape[1]", rows.cols, 1, limits::kHiddenMax);
  }
  if (rows.rows > 0 && (rows.data == nullptr || rows.stride < rows.cols)) {
    return absl::InvalidArgumentError("rows.data: missing");
  }
  // No product below can wrap: rows and columns are within small limits by now.
  const int64_t bytes = rows.rows * rows.cols * SizeOf(rows.dtype);
  if (bytes > limits.bytes_max) return OutOfRange("rows.data: bytes", bytes, 0, limits.bytes_max);
  return absl::OkStatus();
}

absl::Status CheckOffsets(const ExpertCall& call, const CallLimits& limits) {
  const absl::Span<const uint32_t> offsets = call.row_offsets;
  if (static_cast<int64_t>(offsets.size()) != call.rows.rows + 1 || offsets[0] != 0) {
    return absl::InvalidArgumentError(absl::StrCat("experts_per_row: ", static_cast<int64_t>(offsets.size()) - 1,
                                                   " entries for ", call.rows.rows, " rows"));
  }
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    const int64_t count = int64_t{offsets[i + 1]} - int64_t{offsets[i]};
    if (count < 0 || count > limits::kTopKMax) {
      return OutOfRange(absl::StrCat("experts_per_row[", i, "]"), count, 0, limits::kTopKMax);
    }
  }
  if (int64_t{offsets.back()} != call.pairs()) {
    return absl::InvalidArgumentError(
        absl::StrCat("experts: ", call.pairs(), " ids where experts_per_row adds up to ", offsets.back()));
  }
  const int64_t reply_bytes = call.pairs() * call.rows.cols * SizeOf(call.rows.dtype);
  if (reply_bytes <= limits.bytes_max) return absl::OkStatus();
  return OutOfRange("experts: bytes of the reply", reply_bytes, 0, limits.bytes_max);
}

}  // namespace

absl::Status ValidateExpertCall(const ExpertCall& call, const CallLimits& limits) {
  if (Value(call.layer) < 0 || Value(call.layer) >= limits::kLayersMax) {
    return OutOfRange("layer", Value(call.layer), 0, limits::kLayersMax - 1);
  }
  RETURN_IF_ERROR(CheckRows(call.rows, limits));
  RETURN_IF_ERROR(CheckOffsets(call, limits));
  for (int64_t row = 0; row < call.rows.rows; ++row) {
    int32_t previous = -1;
    for (uint32_t p = call.row_offsets[row]; p < call.row_offsets[row + 1]; ++p) {
      const int32_t expert = call.experts[p];
      if (expert < 0 || expert >= limits::kExpertsPerLayerMax) {
        return OutOfRange(absl::StrCat("experts[", p, "]"), expert, 0, limits::kExpertsPerLayerMax - 1);
      }
      if (expert <= previous) {
        return absl::InvalidArgumentError(absl::StrCat("experts[", p, "]: ", expert, " after ", previous, " in row ",
                                                       row, "; ids ascend within a row, each at most once"));
      }
      previous = expert;
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateRowValues(const ConstMatView& rows) {
  const int64_t row = FirstNonFiniteRow(rows, rows.dtype);
  if (row < 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("rows.data: row ", row, " holds a value that is not finite"));
}

absl::Status ValidateReplyView(const ExpertCall& call, const MatView& out) {
  const bool shape = out.rows == call.pairs() && out.cols == call.rows.cols;
  const bool fits = shape && out.dtype == call.rows.dtype && out.device == call.rows.device &&
                    (out.rows == 0 || (out.data != nullptr && out.stride >= out.cols));
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "out: [", out.rows, ", ", out.cols, "] of ", std::string(Name(out.dtype)), " cannot take a reply of [",
      call.pairs(), ", ", call.rows.cols, "] of ", std::string(Name(call.rows.dtype))));
}

}  // namespace conclave
