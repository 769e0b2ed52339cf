// The tickets of expert pools that work in Finish: what Start was asked, kept until then, and the rows as experts take
// them.
#ifndef CONCLAVE_MOE_MODEL_PENDING_CALLS_H_
#define CONCLAVE_MOE_MODEL_PENDING_CALLS_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_pool.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/row_format.h"

namespace conclave {

// One Start that waits for its Finish; `x` and the routing's spans belong to the caller.
struct PendingCall {
  uint64_t id = 0;  // 0: free
  LayerId layer{0};
  ConstMatView x;  // [rows, hidden] F32
  Routing routing;
};

// Used by one thread, the pool's.
class PendingCalls {
 public:
  static constexpr int kTicketsMax = 4;

  // Calls of up to rows_max rows. `kernels` round rows to row_dtype, where `format` does not say otherwise, and must
  // outlive this.
  PendingCalls(const Kernels& kernels, DType row_dtype, RowFormat format, int rows_max, int hidden);

  DType row_dtype() const { return rows_.view().dtype; }
  int64_t rows_max() const { return rows_.view().rows; }

  // RESOURCE_EXHAUSTED: kTicketsMax tickets are in flight. REQUIRES: x [at most rows_max, hidden] F32, and a routing
  // of its rows.
  absl::StatusOr<ExpertTicket> Add(LayerId layer, ConstMatView x, const Routing& routing);
  // Gives the ticket back. REQUIRES: it is in flight
  PendingCall Take(ExpertTicket ticket);

  // The call's rows in row_dtype, [rows, hidden], until those of another call are asked for.
  MatView RoundedRows(const PendingCall& call);
  // Where each row's experts begin in routing.experts, [rows + 1], until those of another call are
  // asked for.
  absl::Span<const uint32_t> RowOffsets(const PendingCall& call);

 private:
  const Kernels& kernels_;
  const RowFormat format_;
  MatBuffer rows_;                     // [rows_max, hidden] row dtype
  std::vector<uint32_t> row_offsets_;  // [rows_max + 1]
  std::array<PendingCall, kTicketsMax> calls_;
  uint64_t last_id_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_PENDING_CALLS_H_
