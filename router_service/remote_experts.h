// An ExpertPool whose experts live on shards, behind a transport: rows are rounded, grouped by shard through the
// placement, sent, and put back in the order of the routing. Where an expert ran, never shows in the result.
//
// Shards may die, hang, crawl, come back, lie about their bytes and change what they hold: rows that a call did not
// bring go to another holder of their expert, or wait for one, until the ticket's deadline. docs/faults.md tells how.
#ifndef CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_H_
#define CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "moe/base/ids.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_pool.h"
#include "moe/placement/placement.h"
#include "moe/transport/expert_handler.h"
#include "moe/transport/transport.h"
#include "router_service/dispatch.h"
#include "router_service/failover_metrics.h"
#include "router_service/hedge_budget.h"
#include "router_service/layer_shard_tokens.h"
#include "router_service/layer_ticket.h"
#include "router_service/remote_experts_options.h"
#include "router_service/shard_health.h"
#include "router_service/shard_membership.h"

namespace conclave {

// Used by the engine's thread alone, which also progresses the transport here; shard_figures, placement and holdings
// are for any thread. kTicketsMax tickets may be in flight.
class RemoteExperts final : public ExpertPool {
 public:
  static constexpr int kTicketsMax = 2;

  // shards[i] is what ShardId{i} said of itself; hidden 0, with a control: nothing yet. Kernels, transport, control,
  // clock and metrics must outlive the pool; the transport must be destroyed, or have no call in flight, before it
  // goes. FAILED_PRECONDITION: which shard does not fit, why, and what to do. UNAVAILABLE names an expert that no shard
  // holds, where no control could find it one. INVALID_ARGUMENT: options out of range. RESOURCE_EXHAUSTED: the device
  // has too little memory.
  static absl::StatusOr<std::unique_ptr<RemoteExperts>> Create(const ModelSpec& spec, const Kernels& kernels,
                                                               Transport& transport,
                                                               const std::vector<ShardDescription>& shards,
                                                               const RemoteExpertsOptions& options);

  // What tickets take of a device's memory at creation, with that many shards.
  static int64_t DeviceBytes(const ModelSpec& spec, DType row_dtype, int rows_max, int shards) {
    return kTicketsMax * LayerTicket::DeviceBytes(rows_max, spec.gate.top_k, shards, spec.hidden, row_dtype);
  }

  DType row_dtype() const override { return row_dtype_; }
  Device row_device() const override { return row_device_; }
  bool works_aside() const override { return true; }
  void SetDeadline(absl::Time deadline, absl::Time since) override {
    step_deadline_ = deadline;
    step_since_ = since;
  }
  void AskWhileStalled(std::function<bool()> abandon) override { abandon_ = std::move(abandon); }
  void Idle() override { transport_.Progress(absl::ZeroDuration()); }
  // INVALID_ARGUMENT: the model has no such layer or expert. RESOURCE_EXHAUSTED too: kTicketsMax are in flight.
  absl::StatusOr<ExpertTicket> Start(LayerId layer, ConstMatView x, const Routing& routing) override;
  // Returns once every row is there, or with UNAVAILABLE at the ticket's deadline, which names layer, expert and what a
  // shard said last, DEADLINE_EXCEEDED at the step's, where no shard had failed, or CANCELLED where it is abandoned.
  absl::Status Finish(ExpertTicket ticket, MatView out) override;

  std::vector<ShardFigures> shard_figures() const { return health_.Figures(options_.clock->Now()); }
  std::shared_ptr<const Placement> placement() const { return membership_->placement(); }
  std::vector<ShardHoldings> holdings() const { return membership_->holdings(); }
  const FailoverCounts& counts() const { return counts_; }  // the engine's thread's

 private:
  // A call on its way; its index is what its Done carries.
  struct Flight {
    LayerTicket* ticket = nullptr;
    ShardMessage* message = nullptr;  // null: free
    absl::Time sent, hedge_at, suspect_at;  // the last two: InfiniteFuture: never, or done
    bool is_hedge = false, outpaced = false;
    const char* way = "";  // Transport::Way
  };

  RemoteExperts(const ModelSpec& spec, const Kernels& kernels, Transport& transport,
                std::unique_ptr<ShardMembership> membership, const std::vector<std::string>& names,
                Device row_device, std::vector<std::unique_ptr<LayerTicket>> tickets,
                const RemoteExpertsOptions& options);
  bool PickHolder(LayerTicket& ticket, int32_t expert, absl::Span<const ShardId> holders, absl::Time now,
                  ShardId* shard);
  bool HasAlternative(LayerTicket& ticket, const ShardMessage& message) const;
  void Pump(absl::Time now);
  void KeepOpen(LayerTicket& ticket, const absl::Status& why);
  void PlanOpen(LayerTicket& ticket, absl::Time now);
  void Hedge(Flight& flight, absl::Time now);
  void Launch(LayerTicket& ticket, Dispatch& dispatch, bool is_hedge, absl::Time now);
  void OnDone(int flight_index, const absl::Status& status);
  void OnFailed(const Flight& flight, const absl::Status& status, absl::Time now);
  void TakeBack(const LayerTicket& ticket, bool all);
  void TakeBackFrom(ShardId shard);
  absl::Duration WaitTime(const LayerTicket& ticket, absl::Time now) const;
  absl::Status GiveUp(LayerTicket& ticket, absl::Time now);

  const Kernels& kernels_;
  Transport& transport_;
  const RemoteExpertsOptions options_;
  const DType row_dtype_;
  const Device row_device_;
  const int hidden_, top_k_, experts_;
  const std::unique_ptr<ShardMembership> membership_;
  ShardHealth health_;
  HedgeBudget hedge_budget_;
  FailoverMetrics metrics_;
  LayerShardTokens shard_tokens_;
  FailoverCounts counts_;
  std::vector<std::unique_ptr<LayerTicket>> tickets_;  // [kTicketsMax]
  std::vector<Flight> flights_;
  std::vector<RoutedPair> batch_;  // of PlanOpen and Hedge, kept for its memory
  absl::Time step_deadline_ = absl::InfiniteFuture(), step_since_ = absl::InfiniteFuture();
  std::function<bool()> abandon_;  // null: never
  uint64_t last_ticket_ = 0, last_call_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_REMOTE_EXPERTS_H_
