// One layer's rows between Start and Finish: which of them have come back, which are on their way, and which have yet
// to find a shard.
#ifndef CONCLAVE_ROUTER_SERVICE_LAYER_TICKET_H_
#define CONCLAVE_ROUTER_SERVICE_LAYER_TICKET_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/row_gather.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_pool.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"
#include "router_service/dispatch.h"
#include "router_service/holder_loads.h"

namespace conclave {

// Sized at creation; only what goes out again after a failure allocates. Used by one thread.
class LayerTicket {
 public:
  // What this ticket has against a shard.
  struct Grudge {
    int strikes = 0;                                // calls that failed
    absl::Time pause_until = absl::InfinitePast();  // before the next one
  };

  // For up to `rows_max` rows of `top_k` of `experts` experts each. What goes out first lies in `memory`, where that
  // gives some.
  LayerTicket(int rows_max, int top_k, int experts, int shards, int hidden, DType row_dtype, RowFormat format,
              const HostMemory& memory = nullptr);
  // The same with x, what goes out and what comes back in the memory of `accelerator`, which must outlive it. Any
  // thread may create it. RESOURCE_EXHAUSTED: there is too little memory.
  static absl::StatusOr<std::unique_ptr<LayerTicket>> OnDevice(Accelerator& accelerator, int rows_max, int top_k,
                                                               int experts, int shards, int hidden, DType row_dtype);
  // What that takes at creation.
  static int64_t DeviceBytes(int rows_max, int top_k, int shards, int hidden, DType row_dtype);

  // Every pair of the routing becomes open, but those of rows that are not finite: shards refuse such a call whole, its
  // other rows too, so that they are not sent. Their experts' outputs are NaN, and whoever samples from them will see.
  // Which rows those are is looked up on the CPU; of rows on the device the routing's fault_layers tell. x must stay
  // unchanged until the ticket is idle again. Memory of what the last layer sent again is freed, or, where a device's
  // may not be freed now, kept for what this one or a later one sends again.
  void Begin(uint64_t id, LayerId layer, ConstMatView x, const Routing& routing, absl::Time deadline,
             bool may_free);
  // The pairs in `batch`, which are open and carry their shards, go out in messages of their own.
  // Ascending by out. The dispatch lives until the next Begin. RESOURCE_EXHAUSTED: the device has no memory for more
  // than goes out first; nothing has changed.
  absl::StatusOr<Dispatch*> Send(absl::Span<const RoutedPair> batch, const Kernels& kernels);
  // One more copy of pairs that are on their way already, not open ones. Errors as Send.
  absl::StatusOr<Dispatch*> SendAgain(absl::Span<const RoutedPair> batch, const Kernels& kernels);
  // A message's call was answered: takes the rows that nobody brought before. Returns how many.
  int TakeReply(const ShardMessage& message);
  // A message's call ended without an answer: what no other call brings becomes open.
  void Reopen(const ShardMessage& message);
  // Pairs that were taken out of open() and are not sent after all.
  void PutBack(absl::Span<const RoutedPair> pairs);
  // out[i] = the row of pair i, on the device in the accelerator's queue. REQUIRES: missing() == 0
  void CopyTo(MatView out) const;

  bool has_row(const RoutedPair& pair) const { return rows_[pair.out] != nullptr; }
  // Pairs without a row, of which no call is on its way; ascending by out.
  std::vector<RoutedPair>& open();
  int missing() const { return missing_; }
  // The expert of the first pair that has no row. REQUIRES: missing() > 0
  int32_t FirstMissing() const;
  Grudge& grudge(ShardId shard) { return grudges_[Value(shard)]; }

  uint64_t id = 0;  // 0: idle
  LayerId layer{0};
  absl::Time deadline;
  int in_flight = 0;          // calls
  absl::Status failure;       // no more can be done
  absl::Status last_error;    // what a shard said last
  HolderLoads loads;          // of all calls so far, to spread pairs over holders

 private:
  LayerTicket(std::unique_ptr<Dispatch> first, int64_t pairs_max, int experts, int shards, int hidden, DType row_dtype,
              RowFormat format);
  absl::StatusOr<Dispatch*> Fill(absl::Span<const RoutedPair> batch, const Kernels& kernels);
  absl::StatusOr<std::unique_ptr<Dispatch>> NewDispatch(int64_t pairs);
  void AddPairs(int32_t row, bool finite, const Routing& routing);
  void Land(const ShardMessage& message);

  const int shards_, hidden_;
  const DType row_dtype_;
  const RowFormat format_;
  ConstMatView x_;
  absl::Span<const int32_t> experts_;  // [pairs] of the routing
  Accelerator* accelerator_ = nullptr;              // null: all on the CPU
  MatBuffer host_nan_row_;                          // [1, hidden] of the row dtype, or …
  std::shared_ptr<void> device_nan_row_;            // … on the device
  const std::byte* nan_row_ = nullptr;
  std::unique_ptr<Dispatch> first_;                 // sized for everything
  bool first_used_ = false;
  std::vector<std::unique_ptr<Dispatch>> further_;  // made when calls fail
  std::vector<std::unique_ptr<Dispatch>> kept_;     // further_ of earlier layers, which could not be freed
  std::vector<const std::byte*> rows_;  // [pairs] where each pair's row lies; null: not there yet
  std::vector<uint8_t> covering_;       // [pairs] calls on their way that will bring it
  std::vector<RoutedPair> open_;
  bool open_sorted_ = true;
  int missing_ = 0;
  std::vector<Grudge> grudges_;  // by shard
  std::unique_ptr<RowGather> combine_;  // on the device: of CopyTo; goes first, for it reads what the others own
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_LAYER_TICKET_H_
