#include "moe/model/pending_calls.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"

namespace conclave {

PendingCalls::PendingCalls(const Kernels& kernels, DType row_dtype, RowFormat format, int rows_max, int hidden)
    : kernels_(kernels), format_(format), rows_(row_dtype, rows_max, hidden), row_offsets_(rows_max + 1) {}

absl::StatusOr<ExpertTicket> PendingCalls::Add(LayerId layer, ConstMatView x, const Routing& routing) {
  CONCLAVE_CHECK(x.rows <= rows_max() && x.cols == rows_.view().cols && x.dtype == DType::kF32)
      << Name(x.dtype) << " of " << x.rows << "x" << x.cols;
  CONCLAVE_CHECK(static_cast<int64_t>(routing.experts.size()) == x.rows * routing.top_k) << routing.experts.size();
  auto call = std::find_if(calls_.begin(), calls_.end(), [](const PendingCall& each) { return each.id == 0; });
  if (call == calls_.end()) {
    return absl::ResourceExhaustedError(absl::StrCat(kTicketsMax, " tickets are in flight already"));
  }
  *call = PendingCall{++last_id_, layer, x, routing};
  return ExpertTicket{last_id_};
}

PendingCall PendingCalls::Take(ExpertTicket ticket) {
  auto found = std::find_if(calls_.begin(), calls_.end(), [&](const auto& each) { return each.id == ticket.id; });
  CONCLAVE_CHECK(ticket.id != 0 && found != calls_.end()) << "ticket " << ticket.id << " is not in flight";
  const PendingCall call = *found;
  found->id = 0;
  return call;
}

MatView PendingCalls::RoundedRows(const PendingCall& call) {
  const MatView rows = rows_.first(call.x.rows);
  if (format_ == RowFormat::kFp8) {
    RoundToFp8(call.x, rows);
  } else {
    kernels_.convert(call.x, rows);
  }
  return rows;
}

absl::Span<const uint32_t> PendingCalls::RowOffsets(const PendingCall& call) {
  for (int64_t row = 0; row <= call.x.rows; ++row) row_offsets_[row] = static_cast<uint32_t>(row * call.routing.top_k);
  return absl::MakeConstSpan(row_offsets_).first(call.x.rows + 1);
}

}  // namespace conclave
