// Transport and control of a simulated cluster: no socket, no thread, no time but the world's.
#ifndef CONCLAVE_ROUTER_SERVICE_SIMULATION_SIM_TRANSPORT_H_
#define CONCLAVE_ROUTER_SERVICE_SIMULATION_SIM_TRANSPORT_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "moe/transport/call_table.h"
#include "moe/transport/shard_control.h"
#include "moe/transport/transport.h"
#include "router_service/simulation/sim_world.h"

namespace conclave {

// Shards compute FakeExpertValue. Rows that were damaged on the way are noticed by their checksum.
class SimTransport final : public Transport {
 public:
  explicit SimTransport(SimWorld& world) : world_(world), links_(world.shards.size()) {}

  void Call(ShardId shard, const ExpertCall& call, MatView out, ExpertCallDone done) override;
  void Cancel(uint64_t call_id) override;
  int Progress(absl::Duration wait) override;
  int shards() const override { return static_cast<int>(links_.size()); }

  // The shard has died, or is back: its connection breaks, or is made again, in a while.
  void OnDeath(ShardId shard);
  void OnReturn(ShardId shard);

  int in_flight() const { return table_.in_flight(); }
  int64_t calls() const { return calls_; }
  int64_t dones() const { return dones_; }
  int64_t stale_rows() const { return stale_rows_; }  // delivered, of a shard at another epoch than the call's

 private:
  struct Message;
  struct Link {
    bool broken = false;
    uint64_t connection = 1;  // what was sent on an earlier one is lost
  };
  void Arrive(std::shared_ptr<Message> message);
  void Run(const Message& message);
  void Reply(const std::shared_ptr<Message>& reply);
  void Deliver(const Message& reply);

  SimWorld& world_;
  std::vector<Link> links_;
  CallTable table_;
  int64_t calls_ = 0, dones_ = 0, stale_rows_ = 0;
};

// Answers questions by what the world says, later.
class SimControl final : public ShardControl {
 public:
  explicit SimControl(SimWorld& world) : world_(world) {}
  void Describe(ShardId shard, absl::Duration timeout) override { Ask(shard, nullptr, timeout); }
  void LoadExperts(ShardId shard, const std::vector<LayerHolding>& experts, absl::Duration timeout) override {
    Ask(shard, &experts, timeout);
  }
  std::optional<ShardNews> Next() override;

 private:
  void Ask(ShardId shard, const std::vector<LayerHolding>* experts, absl::Duration timeout);
  absl::StatusOr<ShardDescription> Answer(ShardId shard, const std::vector<LayerHolding>* experts);

  SimWorld& world_;
  std::deque<ShardNews> news_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SIMULATION_SIM_TRANSPORT_H_
