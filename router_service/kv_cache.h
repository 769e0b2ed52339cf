// Who owns which block of the paged KV cache. Pure bookkeeping over ids: the memory itself is KvStorage's.
#ifndef CONCLAVE_ROUTER_SERVICE_KV_CACHE_H_
#define CONCLAVE_ROUTER_SERVICE_KV_CACHE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace conclave {

// Blocks [0, total) with reference counts. A block that nobody refers to is free, or, where Keep was called for it,
// cached: its content stays until the block is needed, those that were released first are taken first. A block may have
// several owners, so that sequences with a common prefix can share it. Allocates nothing after construction.
// Used by the engine's thread.
class KvBlockPool {
 public:
  // REQUIRES: blocks >= 0
  explicit KvBlockPool(int32_t blocks);
  KvBlockPool(const KvBlockPool&) = delete;
  KvBlockPool& operator=(const KvBlockPool&) = delete;

  int32_t total() const { return static_cast<int32_t>(references_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t cached() const { return cached_; }
  // What Allocate can give: free and cached.
  int32_t available() const { return free() + cached(); }
  // What somebody refers to.
  int32_t held() const { return total() - available(); }
  // 0: free or cached. REQUIRES: 0 <= block < total()
  int32_t references(int32_t block) const;

  // A free block, else the cached one that was released first, now with one reference; nothing where all are held.
  std::optional<int32_t> Allocate();
  // One more owner. REQUIRES: the block is held or cached
  void AddReference(int32_t block);
  // One owner less; behind the last one the block is free, or cached. REQUIRES: the block is held
  void Release(int32_t block);
  // Cached, not free, when its last owner goes. REQUIRES: the block is held
  void Keep(int32_t block);
  // Is told of each cached block whose content gets lost, before Allocate gives it out. It is not kept any longer.
  void set_on_evict(std::function<void(int32_t block)> on_evict) { on_evict_ = std::move(on_evict); }

  // INTERNAL names the block whose count and lists disagree. Linear; for tests and debug checks.
  absl::Status CheckInvariants() const;

 private:
  void Unlink(int32_t block);

  std::vector<int32_t> references_;  // [total]
  std::vector<bool> keep_;           // [total]
  std::vector<int32_t> free_;        // a stack: the block used last is the warmest one
  // The cached ones in order of release: a ring through entry [total], behind which the first one stands.
  std::vector<int32_t> next_, previous_;  // [total + 1]
  int32_t cached_ = 0;
  std::function<void(int32_t)> on_evict_;
};

// The blocks of one sequence in order: entry p holds tokens [p * block_tokens, (p + 1) * block_tokens).
// Owns one reference to each and gives them back when it dies. The pool must outlive it.
class PageTable {
 public:
  // REQUIRES: block_tokens >= 1
  PageTable(KvBlockPool& pool, int block_tokens);
  ~PageTable() { Clear(); }
  PageTable(const PageTable&) = delete;
  PageTable& operator=(const PageTable&) = delete;

  // Valid until the next call that changes the table.
  absl::Span<const int32_t> blocks() const { return blocks_; }
  // Tokens that fit into the blocks held now.
  int64_t capacity_tokens() const { return static_cast<int64_t>(blocks_.size()) * block_tokens_; }
  // Tokens that would fit if the table took every available block.
  int64_t reachable_tokens() const { return capacity_tokens() + int64_t{pool_.available()} * block_tokens_; }
  // Takes blocks until `tokens` tokens fit. All or nothing: false where the pool has too few.
  bool Grow(int64_t tokens);
  // Appends a block that others hold too, or that is cached, as its next full block.
  void AppendShared(int32_t block);
  // Holds `block`, as AppendShared does, in place of the index-th one. REQUIRES: index < blocks().size()
  void Replace(int64_t index, int32_t block);
  // Gives all blocks back.
  void Clear();

 private:
  KvBlockPool& pool_;
  int block_tokens_;
  std::vector<int32_t> blocks_;
};

// Blocks that `tokens` tokens need: the quotient, rounded up.
inline int64_t BlocksFor(int64_t tokens, int block_tokens) { return (tokens + block_tokens - 1) / block_tokens; }

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_KV_CACHE_H_
