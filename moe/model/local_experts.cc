#include "moe/model/local_experts.h"

#include <algorithm>
#include <string>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/model/numeric_profile.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<LocalExperts>> LocalExperts::Create(const Checkpoint& checkpoint, const Kernels& kernels,
                                                                   ThreadPool& threads, int rows_max) {
  if (rows_max < 1) return absl::InvalidArgumentError(absl::StrCat("rows_max: ", rows_max, " is not positive"));
  auto pool = absl::WrapUnique(new LocalExperts(checkpoint, kernels, threads, rows_max));
  RETURN_IF_ERROR(pool->weights_.AddAll());
  return pool;
}

LocalExperts::LocalExperts(const Checkpoint& checkpoint, const Kernels& kernels, ThreadPool& threads, int rows_max)
    : checkpoint_(checkpoint),
      kernels_(kernels),
      weights_(checkpoint),
      grouped_(kernels, threads, checkpoint.spec().hidden, checkpoint.spec().moe_intermediate,
               rows_max * checkpoint.spec().gate.top_k),
      rows_(RowDType(kernels.compute), rows_max, checkpoint.spec().hidden),
      row_offsets_(rows_max + 1) {}

absl::StatusOr<ExpertTicket> LocalExperts::Start(LayerId layer, ConstMatView x, const Routing& routing) {
  if (x.rows > rows_.view().rows || routing.top_k > checkpoint_.spec().gate.top_k) {
    return absl::ResourceExhaustedError(absl::StrCat(x.rows, " rows of ", routing.top_k, " experts; the pool holds ",
                                                     rows_.view().rows, " of ", checkpoint_.spec().gate.top_k));
  }
  CONCLAVE_CHECK(x.cols == rows_.view().cols && x.dtype == DType::kF32) << Name(x.dtype) << " of " << x.cols;
  CONCLAVE_CHECK(static_cast<int64_t>(routing.experts.size()) == x.rows * routing.top_k) << routing.experts.size();
  for (const int32_t expert : routing.experts) {
    if (weights_.Find(layer, ExpertId{expert}) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", Value(layer), " has no expert ", expert));
    }
  }
  auto call = std::find_if(calls_.begin(), calls_.end(), [](const Call& each) { return each.id == 0; });
  if (call == calls_.end()) {
    return absl::ResourceExhaustedError(absl::StrCat(kTicketsMax, " tickets are in flight already"));
  }
  *call = Call{++last_id_, layer, x, routing};
  return ExpertTicket{last_id_};
}

absl::Status LocalExperts::Finish(ExpertTicket ticket, MatView out) {
  auto found = std::find_if(calls_.begin(), calls_.end(), [&](const Call& each) { return each.id == ticket.id; });
  CONCLAVE_CHECK(ticket.id != 0 && found != calls_.end()) << "ticket " << ticket.id << " is not in flight";
  const Call call = *found;
  found->id = 0;
  const MatView rows = rows_.first(call.x.rows);
  kernels_.convert(call.x, rows);
  for (int64_t row = 0; row <= call.x.rows; ++row) row_offsets_[row] = static_cast<uint32_t>(row * call.routing.top_k);
  grouped_.Run(
      rows, absl::MakeConstSpan(row_offsets_).first(call.x.rows + 1), call.routing.experts,
      [&](ExpertId expert) -> const FfnWeights& { return *weights_.Find(call.layer, expert); }, out);
  return checkpoint_.CheckStillWhole();
}

}  // namespace conclave
