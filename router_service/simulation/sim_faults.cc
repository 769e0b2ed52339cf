#include "router_service/simulation/sim_faults.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/ids.h"

namespace conclave {
namespace {

void Die(SimWorld& world, SimTransport& transport, ShardId id) {
  SimShard& shard = world.shards[Value(id)];
  if (!shard.alive) return;
  world.Trace(absl::StrCat("shard ", Value(id), " dies"));
  shard.alive = false;
  ++shard.incarnation;
  shard.waiting.clear();
  world.Touch(shard);
  transport.OnDeath(id);
}

// A process that starts anew holds what its flags say, at the first epoch.
void ComeBack(SimWorld& world, SimTransport& transport, ShardId id) {
  SimShard& shard = world.shards[Value(id)];
  if (shard.alive) return;
  world.Trace(absl::StrCat("shard ", Value(id), " is back"));
  shard.alive = true;
  shard.held = shard.initial;
  shard.secret.assign(shard.held.size(), 0);
  shard.epoch = 1;
  shard.busy_until = world.Now();
  world.Touch(shard);
  transport.OnReturn(id);
}

void Resume(SimWorld& world, SimShard& shard) {
  if (!std::exchange(shard.stopped, false)) return;
  std::vector<std::function<void()>> waiting = std::move(shard.waiting);
  shard.waiting.clear();
  for (const auto& work : waiting) work();
  world.Touch(shard);
}

// Somebody else (another router, an operator) changes what the shard holds.
void ChangeHoldings(SimWorld& world, ShardId id) {
  SimShard& shard = world.shards[Value(id)];
  if (!shard.alive) return;
  const size_t layer = world.random.Below(static_cast<int>(shard.held.size()));
  const uint64_t bit = uint64_t{1} << world.random.Below(8);
  shard.held[layer] ^= bit;
  shard.secret[layer] |= bit;
  ++shard.epoch;
  world.Trace(absl::StrCat("shard ", Value(id), " ", shard.held[layer] & bit ? "takes" : "drops", " an expert; epoch ",
                           shard.epoch));
}

// Sets a field of a shard to `value` for a while, then to `none`.
template <typename Field, typename Value>
void SetForAWhile(SimWorld& world, ShardId id, const char* name, Field SimShard::*field, Value value, Value none,
                  absl::Duration begin, absl::Duration length) {
  SimShard& shard = world.shards[conclave::Value(id)];
  world.After(begin, [&world, &shard, id, name, field, value] {
    world.Trace(absl::StrCat("shard ", conclave::Value(id), " ", name));
    shard.*field = value;
    world.Touch(shard);
  });
  world.After(begin + length, [&world, &shard, id, name, field, none] {
    world.Trace(absl::StrCat("shard ", conclave::Value(id), " no longer ", name));
    shard.*field = none;
    world.Touch(shard);
  });
}

// Returns as a process that serves another model, then as the right one.
void ReturnAsAnotherModel(SimWorld& world, SimTransport& transport, ShardId id, absl::Duration begin,
                          absl::Duration length) {
  SimShard& shard = world.shards[Value(id)];
  world.After(begin, [&world, &transport, &shard, id] {
    Die(world, transport, id);
    shard.other_model = true;
  });
  world.After(begin + length / 2, [&world, &transport, id] { ComeBack(world, transport, id); });
  world.After(begin + length, [&world, &transport, &shard, id] {
    Die(world, transport, id);
    shard.other_model = false;
    ComeBack(world, transport, id);
  });
}

void ScheduleFault(SimWorld& world, SimTransport& transport, absl::Duration begin, absl::Duration length) {
  SimRandom& random = world.random;
  const ShardId id{random.Below(static_cast<int>(world.shards.size()))};
  SimShard& shard = world.shards[Value(id)];
  const auto probability = [&](const char* name, double SimShard::*field) {
    SetForAWhile(world, id, name, field, random.Uniform(), 0.0, begin, length);
  };
  switch (random.Below(11)) {
    case 0:
    case 1:
      world.After(begin, [&world, &transport, id] { Die(world, transport, id); });
      return world.After(begin + length, [&world, &transport, id] { ComeBack(world, transport, id); });
    case 2:
      SetForAWhile(world, id, "stopped", &SimShard::stopped, true, true, begin, length);
      return world.After(begin + length, [&world, &shard] { Resume(world, shard); });
    case 3:
      return SetForAWhile(world, id, "slow", &SimShard::slow, 2.0 + 100 * random.Uniform(), 1.0, begin, length);
    case 4:
      return SetForAWhile(world, id, "deaf", &SimShard::deaf, true, false, begin, length);
    case 5:
      return SetForAWhile(world, id, "mute", &SimShard::mute, true, false, begin, length);
    case 6:
      return probability("losing messages", &SimShard::loss);
    case 7:
      return probability("damaging messages", &SimShard::damage);
    case 8:
      return probability("doubling messages", &SimShard::doubling);
    case 9:
      if (random.Chance(0.3)) return ReturnAsAnotherModel(world, transport, id, begin, length);
      [[fallthrough]];
    default:
      world.After(begin, [&world, id] { ChangeHoldings(world, id); });
  }
}

}  // namespace

void ScheduleFaults(SimWorld& world, SimTransport& transport, int count, absl::Duration healed_at) {
  SimRandom& random = world.random;
  for (int i = 0; i < count; ++i) {
    const absl::Duration begin = healed_at * (0.9 * random.Uniform());
    // Most faults are short beside the router's patience, some are not.
    const absl::Duration length = random.Around(random.Chance(0.3) ? absl::Seconds(2) : absl::Milliseconds(100));
    ScheduleFault(world, transport, begin, std::min(length, healed_at * 0.99 - begin));
  }
  // Whatever overlapped: at the end all is well.
  world.After(healed_at, [&world, &transport] {
    world.Trace("all is well again");
    for (size_t i = 0; i < world.shards.size(); ++i) {
      SimShard& shard = world.shards[i];
      const ShardId id{static_cast<int32_t>(i)};
      if (shard.other_model) Die(world, transport, id);
      shard.other_model = shard.deaf = shard.mute = false;
      shard.slow = 1;
      shard.loss = shard.damage = shard.doubling = 0;
      ComeBack(world, transport, id);
      Resume(world, shard);
      world.Touch(shard);
    }
  });
}

}  // namespace conclave
