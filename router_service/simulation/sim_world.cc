#include "router_service/simulation/sim_world.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave {

uint64_t SimRandom::Next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

absl::Duration SimRandom::Around(absl::Duration mean) {
  return std::min(-std::log(1 - Uniform()), 10.0) * mean;
}

int SimShard::held_count() const {
  int count = 0;
  for (const uint64_t bits : held) count += __builtin_popcountll(bits);
  return count;
}

void SimWorld::After(absl::Duration delay, std::function<void()> event) {
  events_.push({now_ + delay, ++last_order_, std::move(event)});
}

void SimWorld::RunUntil(absl::Time until) {
  while (!events_.empty() && events_.top().at <= until) {
    now_ = std::max(now_, events_.top().at);
    const std::function<void()> run = std::move(const_cast<Event&>(events_.top()).run);
    events_.pop();
    run();
  }
  now_ = std::max(now_, until);
}

bool SimWorld::Travels(const SimShard& shard, bool to_shard, absl::Duration* delay) {
  *delay = absl::Microseconds(50) + random.Around(absl::Microseconds(100));
  if (random.Chance(0.01)) *delay += random.Around(absl::Milliseconds(5));
  const bool lost = random.Chance(shard.loss);
  return !lost && !(to_shard ? shard.deaf : shard.mute);
}

void SimWorld::RunOn(SimShard& shard, absl::Duration work_time, std::function<void()> work) {
  if (!shard.alive) return;
  if (shard.stopped) {
    shard.waiting.push_back([this, &shard, work_time, work = std::move(work)] { RunOn(shard, work_time, work); });
    return;
  }
  shard.busy_until = std::max(shard.busy_until, now_) + work_time * shard.slow;
  After(shard.busy_until - now_, [this, &shard, incarnation = shard.incarnation, work = std::move(work)] {
    if (shard.incarnation != incarnation || !shard.alive) return;
    if (!shard.stopped) return work();
    shard.waiting.push_back([this, &shard, work] { RunOn(shard, absl::ZeroDuration(), work); });
  });
}

ShardDescription SimWorld::Describe(ShardId id) const {
  const SimShard& shard = shards[Value(id)];
  ShardDescription description = expected;
  description.name = absl::StrCat("expert-", Value(id));
  description.placement_epoch = shard.epoch;
  if (shard.other_model) description.model_fingerprint = "another";
  for (size_t layer = 0; layer < shard.held.size(); ++layer) {
    LayerHolding holding{LayerId{static_cast<int32_t>(layer)}, {}};
    for (int expert = 0; expert < 64; ++expert) {
      if (shard.held[layer] >> expert & 1) holding.experts.push_back(ExpertId{expert});
    }
    if (!holding.experts.empty()) description.holdings.push_back(std::move(holding));
  }
  return description;
}

void SimWorld::Touch(SimShard& shard) {
  if (!shard.clean()) {
    shard.clean_since = absl::InfiniteFuture();
  } else if (shard.clean_since == absl::InfiniteFuture()) {
    shard.clean_since = now_;
  }
}

void SimWorld::Trace(const std::string& text) const {
  if (!traced) return;
  std::printf("%12.6f  %s\n", absl::ToDoubleSeconds(now_ - absl::UnixEpoch()), text.c_str());
}

}  // namespace conclave
