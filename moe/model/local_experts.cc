#include "moe/model/local_experts.h"

#include <string>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/model/numeric_profile.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<LocalExperts>> LocalExperts::Create(const Checkpoint& checkpoint, const Kernels& kernels,
                                                                   ThreadPool& threads, int rows_max,
                                                                   RowFormat format) {
  if (rows_max < 1) return absl::InvalidArgumentError(absl::StrCat("rows_max: ", rows_max, " is not positive"));
  auto pool = absl::WrapUnique(new LocalExperts(checkpoint, kernels, threads, rows_max, format));
  RETURN_IF_ERROR(pool->weights_.AddAll());
  return pool;
}

LocalExperts::LocalExperts(const Checkpoint& checkpoint, const Kernels& kernels, ThreadPool& threads, int rows_max,
                           RowFormat format)
    : checkpoint_(checkpoint),
      weights_(checkpoint),
      grouped_(kernels, threads, checkpoint.spec().hidden, checkpoint.spec().moe_intermediate,
               rows_max * checkpoint.spec().gate.top_k),
      calls_(kernels, RowDType(kernels.compute), format, rows_max, checkpoint.spec().hidden) {}

absl::StatusOr<ExpertTicket> LocalExperts::Start(LayerId layer, ConstMatView x, const Routing& routing) {
  if (x.rows > calls_.rows_max() || routing.top_k > checkpoint_.spec().gate.top_k) {
    return absl::ResourceExhaustedError(absl::StrCat(x.rows, " rows of ", routing.top_k, " experts; the pool holds ",
                                                     calls_.rows_max(), " of ", checkpoint_.spec().gate.top_k));
  }
  for (const int32_t expert : routing.experts) {
    if (weights_.Find(layer, ExpertId{expert}) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", Value(layer), " has no expert ", expert));
    }
  }
  return calls_.Add(layer, x, routing);
}

absl::Status LocalExperts::Finish(ExpertTicket ticket, MatView out) {
  const PendingCall call = calls_.Take(ticket);
  grouped_.Run(
      calls_.RoundedRows(call), calls_.RowOffsets(call), call.routing.experts,
      [&](ExpertId expert) -> const FfnWeights& { return *weights_.Find(call.layer, expert); }, out);
  return checkpoint_.CheckStillWhole();
}

}  // namespace conclave
