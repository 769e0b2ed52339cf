// A pool of shards for tests of who moves experts between them: holdings, limits, revisions and counters, but no
// weights.
#ifndef CONCLAVE_PLACEMENT_SERVICE_FAKE_SHARDS_H_
#define CONCLAVE_PLACEMENT_SERVICE_FAKE_SHARDS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "moe/placement/load_split.h"
#include "moe/transport/holdings_control.h"

namespace conclave {

// Thread-safe. Layers are 1 … layers. Every expert takes kExpertBytes.
class FakeShards {
 public:
  static constexpr int64_t kExpertBytes = 100;
  enum class Call { kDescribe, kLoad, kKeep, kUnload };
  // What happens to a call: it is done and answered, cannot be made, is done and its answer is lost, or the shard is
  // not able to do it.
  enum class Fate { kDone, kRefused, kUnheard, kBroken };
  using Fates = std::function<Fate(Call call, int shard)>;

  // Contiguous shares, `copies` of each around a ring, and room for `spare` more of each layer on every shard.
  FakeShards(int shards, int layers, int experts, int spare, int copies = 1);

  std::vector<std::string> addresses() const;
  // Every call asks `fates` first; null: all are done.
  std::unique_ptr<HoldingsControl> Connect(const std::string& address, Fates fates = nullptr);

  // Counts tokens of one layer, [experts], each on the holders where there is least to do.
  void Serve(int layer, absl::Span<const double> tokens);
  void Die(int shard);
  // With what it held at first.
  void ComeBack(int shard);
  // It does not know how to let experts go.
  void MakeOld(int shard);
  void SetLimit(int shard, int experts);
  // Whatever others do.
  void Hold(int shard, int layer, int expert);

  std::vector<int> HoldersOf(int layer, int expert) const;
  int Held(int shard) const;
  // How often an expert lost its last holder to an UnloadExperts.
  int lost() const;
  // max/mean over shards of what was counted since the last Reset, mean over layers.
  double Imbalance() const;
  void Reset();
  int calls(Call call) const;

 private:
  friend class FakeShardControl;
  struct Shard {
    bool alive = true;
    std::vector<std::set<int>> initial, held;  // [layers]
    std::vector<std::vector<uint64_t>> tokens, counted_from;  // [layers][experts]
    uint64_t revision = 1;
    int limit = 0;  // experts
  };
  ShardDescription Describe(int shard) const;
  absl::Status CheckHeld(int shard, absl::Span<const LayerHolding> experts, uint64_t revision) const;

  const int layers_, experts_;
  mutable std::mutex mutex_;
  std::vector<Shard> shards_;  // guarded by mutex_
  std::map<Call, int> calls_;  // guarded by mutex_
  int lost_ = 0;               // guarded by mutex_
};

}  // namespace conclave

#endif  // CONCLAVE_PLACEMENT_SERVICE_FAKE_SHARDS_H_
