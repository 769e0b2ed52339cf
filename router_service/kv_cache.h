// Who owns which block of the paged KV cache. Pure bookkeeping over ids: the memory itself is KvStorage's.
#ifndef CONCLAVE_ROUTER_SERVICE_KV_CACHE_H_
#define CONCLAVE_ROUTER_SERVICE_KV_CACHE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace conclave {

// Blocks [0, total) with reference counts: a block is free exactly when nobody refers to it. A block may have several
// owners, so that sequences with a common prefix can share it. Allocates nothing after construction.
// Used by the engine's thread.
class KvBlockPool {
 public:
  // REQUIRES: blocks >= 0
  explicit KvBlockPool(int32_t blocks);
  KvBlockPool(const KvBlockPool&) = delete;
  KvBlockPool& operator=(const KvBlockPool&) = delete;

  int32_t total() const { return static_cast<int32_t>(references_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t used() const { return total() - free(); }
  // 0: free. REQUIRES: 0 <= block < total()
  int32_t references(int32_t block) const;

  // A free block, now with one reference; nothing where all are in use.
  std::optional<int32_t> Allocate();
  // One more owner. REQUIRES: the block is in use
  void AddReference(int32_t block);
  // One owner less; the last one frees the block. REQUIRES: the block is in use
  void Release(int32_t block);

  // INTERNAL names the block whose count and free list disagree. Linear; for tests and debug checks.
  absl::Status CheckInvariants() const;

 private:
  std::vector<int32_t> references_;  // [total]
  std::vector<int32_t> free_;        // a stack: the block used last is the warmest one
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
  // Tokens that would fit if the table took every free block.
  int64_t reachable_tokens() const { return capacity_tokens() + int64_t{pool_.free()} * block_tokens_; }
  // Takes blocks until `tokens` tokens fit. All or nothing: false where the pool has too few.
  bool Grow(int64_t tokens);
  // Appends a block that others hold too, as its next full block. REQUIRES: the block is in use
  void AppendShared(int32_t block);
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
