// The rows of one layer on their way to shards and back: grouped, so that a row travels once to each shard, with the
// list of that shard's experts for it.
#ifndef CONCLAVE_ROUTER_SERVICE_DISPATCH_H_
#define CONCLAVE_ROUTER_SERVICE_DISPATCH_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/kernels/accelerator/row_gather.h"
#include "moe/kernels/kernels.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/row_format.h"
#include "moe/transport/transport.h"

namespace conclave {

// One (row, expert) pair and the shard that is to run it.
struct RoutedPair {
  int32_t row = 0;  // of the layer's input
  int32_t expert = 0;
  int32_t out = 0;  // row of the layer's output
  ShardId shard{0};
};

// What goes to one shard, and where its reply lands.
struct ShardMessage {
  ShardId shard{0};
  ExpertCall call;                     // call_id, placement_epoch, layer and deadline are the sender's to set
  absl::Span<const RoutedPair> pairs;  // [pairs], in the order of call.experts
  MatView reply;                       // [pairs, hidden] of the row dtype
};

// Owns the memory of its messages. Sized at creation; Fill allocates nothing. Used by one thread.
class Dispatch {
 public:
  // For up to `pairs_max` pairs that make up to `rows_max` rows, a row counted once for each shard it goes to.
  // Rows and replies lie in `memory`, where that gives some.
  Dispatch(int64_t rows_max, int64_t pairs_max, int shards, int hidden, DType row_dtype, RowFormat format,
           const HostMemory& memory = nullptr);
  // The same in the memory of `accelerator`, which must outlive it: Fill queues there what brings the rows. Any thread
  // may create it. RESOURCE_EXHAUSTED: there is too little memory.
  static absl::StatusOr<std::unique_ptr<Dispatch>> OnDevice(Accelerator& accelerator, int64_t rows_max,
                                                            int64_t pairs_max, int shards, int hidden, DType row_dtype);

  // Groups `pairs`, which come in ascending order of (row, expert), by shard, and rounds the rows they name out of
  // x [rows, hidden] F32, or on the device copies those of x of the row dtype. Messages are in ascending order of
  // shard, and rows and experts ascend within them.
  void Fill(absl::Span<const RoutedPair> pairs, ConstMatView x, const Kernels& kernels);
  // Views into this object, good until the next Fill.
  absl::Span<ShardMessage> messages() { return absl::MakeSpan(messages_); }
  int64_t pairs_max() const { return static_cast<int64_t>(pairs_.size()); }

 private:
  Dispatch(MatView rows, MatView replies, int shards, RowFormat format);
  void SortByShard(absl::Span<const RoutedPair> pairs);
  void TakeRow(ConstMatView x, int64_t row, int64_t place, const Kernels& kernels);

  const RowFormat format_;
  MatBuffer host_rows_, host_replies_;    // or …
  std::shared_ptr<void> device_memory_;   // … both on the device, where …
  std::unique_ptr<RowGather> gather_;     // … this brings the rows
  absl::Span<const void*> addresses_;     // gather_'s, [rows_max]
  MatView rows_;                          // [rows_max, hidden] row dtype
  MatView replies_;                       // [pairs_max, hidden] row dtype
  std::vector<RoutedPair> pairs_;  // [pairs_max], by shard, then as given
  std::vector<int32_t> experts_;   // [pairs_max], of pairs_
  std::vector<uint32_t> offsets_;  // one run of rows + 1 for each message
  std::vector<int64_t> begin_;     // [shards + 1] into pairs_
  std::vector<ShardMessage> messages_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_DISPATCH_H_
