// The seam between the model and wherever its experts live. The model never knows the network.
#ifndef CONCLAVE_MOE_MODEL_EXPERT_POOL_H_
#define CONCLAVE_MOE_MODEL_EXPERT_POOL_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/tensor/mat_view.h"

namespace conclave {

// Which experts each row goes to. Non-owning; must outlive Finish.
struct Routing {
  int top_k = 0;
  absl::Span<const int32_t> experts;  // [rows * top_k], ascending within a row, no duplicates
  absl::Span<const float> weights;    // [rows * top_k], routed scaling factor included; pools ignore them
  absl::Span<const int32_t> fault_layers;  // [rows], see Start; of rows on the device alone
};

// An outstanding Start. Move-only by convention: every ticket is given to Finish exactly once.
struct ExpertTicket {
  uint64_t id = 0;
};

// out[i * top_k + k] = round(FFN_{experts[i, k]}(round(x[i]))), where round is to row_dtype(): local and remote
// pools obey the same sentence, so that where an expert runs never shows in the result.
// Used by one thread, the engine's. At least two tickets may be in flight.
class ExpertPool {
 public:
  virtual ~ExpertPool() = default;
  // The dtype in which rows travel and are returned: F32 with Compute::kF32, BF16 with Compute::kBF16.
  virtual DType row_dtype() const = 0;
  // Where x of Start and out of Finish lie. kCuda: in the memory of the accelerator that the model runs on.
  virtual Device row_device() const { return Device::kCpu; }
  // Whether experts are at work between Start and Finish without the caller's cores: then it pays to have something
  // else to do meanwhile.
  virtual bool works_aside() const { return false; }
  // Tickets that start from now on give up by `deadline`, where the pool waits for anything. Where they belong to a
  // step that is tried again, their wait counts from `since`, the first try.
  virtual void SetDeadline(absl::Time deadline, absl::Time since = absl::InfiniteFuture()) {}
  // Where Finish waits for rows that nobody computes at the moment, it asks now and then, on its own thread, whether
  // the step should be abandoned; it then ends with CANCELLED. To be called before the first Start.
  virtual void AskWhileStalled(std::function<bool()> abandon) {}
  // Nobody has work for the pool at the moment: it keeps its connections in order, without waiting for anything. To be
  // called some times a second. REQUIRES: no ticket is in flight.
  virtual void Idle() {}
  // Begins work on x [rows, hidden], which must stay unchanged until Finish: F32 on the CPU; on the device of
  // row_dtype(), and what makes it is in the accelerator's queue. There the routing says which rows are not finite:
  // their fault_layers are not kNoFault, no expert sees them, and their rows of out are NaN, as those of such rows on
  // the CPU. RESOURCE_EXHAUSTED: more rows than the pool was sized for.
  virtual absl::StatusOr<ExpertTicket> Start(LayerId layer, ConstMatView x, const Routing& routing) = 0;
  // Waits for the ticket and fills out [rows * top_k, hidden] of row_dtype(); on the device what fills it is then in
  // the accelerator's queue. UNAVAILABLE names layer and expert where no holder answered; out is then unspecified and
  // must not be used.
  virtual absl::Status Finish(ExpertTicket ticket, MatView out) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_EXPERT_POOL_H_
