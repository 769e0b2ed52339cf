// Tokens by layer and shard, counted by the engine's thread without a lock and shown at each scrape.
#ifndef CONCLAVE_ROUTER_SERVICE_LAYER_SHARD_TOKENS_H_
#define CONCLAVE_ROUTER_SERVICE_LAYER_SHARD_TOKENS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/metrics/metrics.h"
#include "router_service/token_window.h"

namespace conclave {

// Add is one thread's.
class LayerShardTokens {
 public:
  // layers: those that have experts, ascending; shards[i]: the name of ShardId{i}. `metrics` null: nothing is counted.
  LayerShardTokens(absl::Span<const LayerId> layers, const std::vector<std::string>& shards, Metrics* metrics);

  // The shard has run so many pairs of a row and an expert of the layer. REQUIRES: a layer and a shard that it knows
  void Add(LayerId layer, ShardId shard, int64_t pairs) {
    if (hook_ == nullptr) return;
    std::atomic<uint64_t>& count = counts_[At(layer, shard)];
    count.store(count.load(std::memory_order_relaxed) + static_cast<uint64_t>(pairs), std::memory_order_relaxed);
  }

 private:
  size_t At(LayerId layer, ShardId shard) const {
    return static_cast<size_t>(rows_[Value(layer)]) * shards_ + static_cast<size_t>(Value(shard));
  }
  void Refresh();

  const size_t shards_;
  std::vector<int> rows_;  // by layer number; -1: no experts
  std::vector<std::atomic<uint64_t>> counts_;  // [layers * shards]
  std::vector<Counter*> shown_;                // [layers * shards]
  std::vector<uint64_t> shown_counts_;         // [layers * shards], the hook's alone
  std::vector<Gauge*> balancedness_;           // [layers]
  TokenWindow window_;
  std::unique_ptr<RefreshHook> hook_;  // last: it uses the others
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_LAYER_SHARD_TOKENS_H_
