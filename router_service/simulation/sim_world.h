// A cluster without machines: virtual time, shards as state, a network that loses, delays, doubles and damages. All of
// it follows from one seed, so that whatever goes wrong goes wrong again.
#ifndef CONCLAVE_ROUTER_SERVICE_SIMULATION_SIM_WORLD_H_
#define CONCLAVE_ROUTER_SERVICE_SIMULATION_SIM_WORLD_H_

#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "moe/base/clock.h"
#include "moe/base/ids.h"
#include "moe/transport/expert_handler.h"

namespace conclave {

// Small, fast and the same everywhere (SplitMix64).
class SimRandom {
 public:
  explicit SimRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  // In [0, below). REQUIRES: below > 0
  int Below(int below) { return static_cast<int>(Next() % static_cast<uint64_t>(below)); }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  bool Chance(double probability) { return Uniform() < probability; }
  // Exponential around `mean`, at most ten times as much.
  absl::Duration Around(absl::Duration mean);

 private:
  uint64_t state_;
};

// What a shard is and suffers at the moment.
struct SimShard {
  // Holdings by [layer], a bit for each expert.
  std::vector<uint64_t> initial, held;
  std::vector<uint64_t> secret;  // of those held: taken on somebody else's word, which a router need not know
  uint64_t epoch = 1;
  uint64_t incarnation = 1;  // grows with every death
  bool alive = true, other_model = false;
  bool stopped = false;             // takes in, runs nothing
  double slow = 1;                  // factor of its computing time
  bool deaf = false, mute = false;  // nothing arrives; nothing leaves
  double loss = 0, damage = 0, doubling = 0;
  int room = 64 * 8;  // experts it can hold, over all layers
  absl::Time busy_until = absl::InfinitePast();
  absl::Time clean_since = absl::InfinitePast();  // nothing of the above since then
  std::vector<std::function<void()>> waiting;     // arrived while it was stopped

  bool clean() const {
    return alive && !other_model && !stopped && slow == 1 && !deaf && !mute && loss == 0 && damage == 0 &&
           doubling == 0;
  }
  int held_count() const;
};

// The clock, what happens when, and the shards.
class SimWorld final : public Clock {
 public:
  explicit SimWorld(uint64_t seed) : random(seed) {}
  absl::Time Now() override { return now_; }

  // Runs `event` after `delay`. Events at the same time run in the order in which they were asked for.
  void After(absl::Duration delay, std::function<void()> event);
  // The time of the next event; InfiniteFuture: none.
  absl::Time NextEvent() const { return events_.empty() ? absl::InfiniteFuture() : events_.top().at; }
  // Moves time to `until` and runs what is due by then.
  void RunUntil(absl::Time until);

  // A message's way to (or from) the shard: false where it is lost. `delay` is filled in.
  bool Travels(const SimShard& shard, bool to_shard, absl::Duration* delay);
  // Runs `work` on the shard when it has time for it: at once, after what it has to do, or when it runs again. What a
  // shard had to do is gone when it dies.
  void RunOn(SimShard& shard, absl::Duration work_time, std::function<void()> work);
  ShardDescription Describe(ShardId shard) const;
  // Notes whether the shard suffers; to be called after every change.
  void Touch(SimShard& shard);
  // With --seed: tells what happens.
  void Trace(const std::string& text) const;

  SimRandom random;
  std::vector<SimShard> shards;
  ShardDescription expected;  // what a good shard says of itself, less its holdings
  bool traced = false;

 private:
  struct Event {
    absl::Time at;
    uint64_t order;
    std::function<void()> run;
    bool operator<(const Event& other) const { return at != other.at ? at > other.at : order > other.order; }
  };
  absl::Time now_ = absl::UnixEpoch();
  uint64_t last_order_ = 0;
  std::priority_queue<Event> events_;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SIMULATION_SIM_WORLD_H_
