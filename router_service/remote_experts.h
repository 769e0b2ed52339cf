// An ExpertPool whose experts live on shards, behind a transport: rows are rounded, grouped by shard through the
// placement, sent, and put back in the order of the routing. Where an expert ran, never shows in the result.
#ifndef CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_H_
#define CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/base/ids.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/kernels/kernels.h"
#include "moe/metrics/metrics.h"
#include "moe/model/expert_pool.h"
#include "moe/placement/placement.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/transport.h"
#include "router_service/dispatch.h"
#include "router_service/shard_health.h"

namespace conclave {

// Sizes, expectations and patience.
struct RemoteExpertsOptions {
  int rows_max = 512;                 // rows of one Start; memory is sized for it
  std::string model_fingerprint;      // what the shards must serve: Checkpoint::fingerprint
  bool allow_mixed_numerics = false;  // shards of other numeric profiles; the same bits are then not promised
  absl::Duration attempt_timeout = absl::Seconds(20);  // of one call, before another holder is asked
  absl::Duration timeout = absl::Seconds(60);          // of one ticket, all attempts together
  Clock* clock = Clock::Real();
  Metrics* metrics = nullptr;
};

// Used by the engine's thread alone, which also progresses the transport here; shard_figures and placement are for any
// thread. kTicketsMax tickets may be in flight.
class RemoteExperts final : public ExpertPool {
 public:
  static constexpr int kTicketsMax = 2;

  // shards[i] is what ShardId{i} of the transport said of itself. Kernels, transport, clock and metrics must outlive
  // the pool; the transport must be destroyed, or have no call in flight, before the pool goes.
  // FAILED_PRECONDITION says in a sentence which shard does not fit and what to do: another model, numeric profile,
  // hidden size, row dtype or placement epoch. UNAVAILABLE names an expert that no shard holds.
  // INVALID_ARGUMENT: options out of range.
  static absl::StatusOr<std::unique_ptr<RemoteExperts>> Create(const ModelSpec& spec, const Kernels& kernels,
                                                               Transport& transport,
                                                               const std::vector<ShardDescription>& shards,
                                                               const RemoteExpertsOptions& options);

  DType row_dtype() const override { return row_dtype_; }
  // INVALID_ARGUMENT too: a layer or expert that the model does not have. RESOURCE_EXHAUSTED too where kTicketsMax
  // tickets are in flight.
  absl::StatusOr<ExpertTicket> Start(LayerId layer, ConstMatView x, const Routing& routing) override;
  // Asks other holders for the rows of calls that failed, within the ticket's deadline. UNAVAILABLE names layer,
  // expert and what its shard said last. Returns when no call of the ticket is in flight any more.
  absl::Status Finish(ExpertTicket ticket, MatView out) override;

  std::vector<ShardFigures> shard_figures() const { return health_.Figures(); }
  const std::shared_ptr<const Placement>& placement() const { return placement_; }

 private:
  struct Ticket {
    uint64_t id = 0;  // 0: free
    LayerId layer{0};
    ConstMatView x;
    absl::Time deadline;
    std::unique_ptr<Dispatch> first;                 // sized for rows_max
    std::vector<std::unique_ptr<Dispatch>> resends;  // made when calls fail
    std::vector<RoutedPair> pairs;                   // [rows_max * top_k]
    std::vector<uint8_t> strikes;                    // by shard; at kStrikesMax it is not asked again
    std::vector<int32_t> assigned;                   // pairs by shard, to spread them over holders
    int in_flight = 0;
    absl::Status failure;
  };
  // A call on its way; its index is what its Done carries.
  struct Flight {
    Ticket* ticket = nullptr;
    ShardMessage* message = nullptr;  // null: free
    absl::Time sent;
  };

  RemoteExperts(const ModelSpec& spec, const Kernels& kernels, Transport& transport,
                std::shared_ptr<const Placement> placement, const std::vector<std::string>& names,
                const RemoteExpertsOptions& options);
  absl::Status PlanTicket(Ticket& ticket, const Routing& routing);
  bool PickHolder(Ticket& ticket, int32_t expert, ShardId* shard) const;
  void Send(Ticket& ticket, Dispatch& dispatch);
  void OnDone(int flight_index, const absl::Status& status);
  void Resend(Ticket& ticket, const ShardMessage& failed, const absl::Status& why);

  const Kernels& kernels_;
  Transport& transport_;
  const std::shared_ptr<const Placement> placement_;
  const RemoteExpertsOptions options_;
  const DType row_dtype_;
  const int hidden_, top_k_;
  ShardHealth health_;
  Counter* resends_total_ = nullptr;
  std::array<Ticket, kTicketsMax> tickets_;
  std::vector<Flight> flights_;
  uint64_t last_ticket_ = 0, last_call_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_H_
