// Finds the KV blocks that a sequence need not compute, because one with the same beginning has. A full block is known
// by its tokens, by the block before it and so by everything before it, and by a salt. The same positions of the same
// tokens give the same bits, so that nobody can tell a shared block from one's own.
//
// The cache is a tree of prefixes; a block whose last owner is gone stays until the pool needs it, least recently used
// first, the end of a prefix before its beginning (KvBlockPool).
#ifndef CONCLAVE_ROUTER_SERVICE_PREFIX_CACHE_H_
#define CONCLAVE_ROUTER_SERVICE_PREFIX_CACHE_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "router_service/kv_cache.h"

namespace conclave {

// A prefix that ends with a full block: a number that is never given twice.
enum class PrefixId : uint64_t {};

// A block, and the prefix that ends with it.
struct PrefixBlock {
  PrefixId prefix{0};
  int32_t block = 0;
};

// Allocates per entry no more than a hash table does. Used by the engine's thread.
class PrefixCache {
 public:
  // The pool must outlive it, and be used through no other cache. REQUIRES: block_tokens >= 1
  PrefixCache(KvBlockPool& pool, int block_tokens);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // The empty prefix of all sequences with this salt.
  static PrefixId Root(absl::string_view salt);
  // The block that holds `tokens` ([block_tokens]) behind `parent`. It may be evicted by the next Allocate.
  std::optional<PrefixBlock> Find(PrefixId parent, absl::Span<const int32_t> tokens) const;
  // `block` holds `tokens` behind `parent` from now on. Where a block does so already, returns that one: the caller
  // should hold it in place of its own. REQUIRES: the block is held, and in the cache under no other name
  PrefixBlock Insert(PrefixId parent, absl::Span<const int32_t> tokens, int32_t block);

  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }

 private:
  // Parent, and a hash of the tokens; the tokens themselves decide.
  using Key = std::pair<PrefixId, uint64_t>;

  Key KeyOf(PrefixId parent, absl::Span<const int32_t> tokens) const;
  absl::Span<const int32_t> TokensOf(int32_t block) const;
  void Evict(int32_t block);

  KvBlockPool& pool_;
  const int block_tokens_;
  uint64_t last_prefix_ = 0;
  absl::flat_hash_map<Key, int32_t> blocks_;
  // By block, of those that are in the cache.
  std::vector<Key> keys_;           // [total]
  std::vector<PrefixId> prefixes_;  // [total]
  std::vector<int32_t> tokens_;     // [total, block_tokens]
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_PREFIX_CACHE_H_
