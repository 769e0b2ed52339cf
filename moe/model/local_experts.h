// An ExpertPool that runs every expert in this process, straight from the checkpoint: what a single process serves
// with, and what remote pools are compared to bit for bit.
#ifndef CONCLAVE_MOE_MODEL_LOCAL_EXPERTS_H_
#define CONCLAVE_MOE_MODEL_LOCAL_EXPERTS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_ffn.h"
#include "moe/model/expert_pool.h"
#include "moe/model/expert_weights.h"
#include "moe/model/pending_calls.h"
#include "moe/tensor/row_format.h"

namespace conclave {

// The work of a ticket is done in Finish, on the calling thread and `threads`.
class LocalExperts final : public ExpertPool {
 public:
  // Calls of up to `rows_max` rows, rounded to `format`. All arguments must outlive the pool.
  // NOT_FOUND / DATA_LOSS: an expert's tensor is missing or damaged; the message names it.
  static absl::StatusOr<std::unique_ptr<LocalExperts>> Create(const Checkpoint& checkpoint, const Kernels& kernels,
                                                              ThreadPool& threads, int rows_max,
                                                              RowFormat format = RowFormat::kCompute);

  DType row_dtype() const override { return calls_.row_dtype(); }
  // Also INVALID_ARGUMENT: a layer or expert that the model does not have. RESOURCE_EXHAUSTED too where kTicketsMax
  // tickets are in flight.
  absl::StatusOr<ExpertTicket> Start(LayerId layer, ConstMatView x, const Routing& routing) override;
  // DATA_LOSS: a file of the checkpoint was cut short under us.
  absl::Status Finish(ExpertTicket ticket, MatView out) override;

  static constexpr int kTicketsMax = PendingCalls::kTicketsMax;

 private:
  LocalExperts(const Checkpoint& checkpoint, const Kernels& kernels, ThreadPool& threads, int rows_max,
               RowFormat format);

  const Checkpoint& checkpoint_;
  ExpertWeightTable weights_;
  GroupedExperts grouped_;
  PendingCalls calls_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_LOCAL_EXPERTS_H_
