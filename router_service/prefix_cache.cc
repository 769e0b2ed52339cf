#include "router_service/prefix_cache.h"

#include <xxhash.h>

#include <algorithm>

#include "moe/base/check.h"

namespace conclave {

PrefixCache::PrefixCache(KvBlockPool& pool, int block_tokens)
    : pool_(pool),
      block_tokens_(block_tokens),
      keys_(pool.total()),
      prefixes_(pool.total()),
      tokens_(static_cast<size_t>(pool.total()) * block_tokens) {
  CONCLAVE_CHECK(block_tokens >= 1) << block_tokens;
  blocks_.reserve(pool.total());
  pool_.set_on_evict([this](int32_t block) { Evict(block); });
}

PrefixCache::~PrefixCache() { pool_.set_on_evict(nullptr); }

// Roots have the highest bit, which no number of a prefix ever reaches. Two salts that met in 63 bits would share
// blocks: seen from outside, a shorter first step, and never another answer.
PrefixId PrefixCache::Root(absl::string_view salt) {
  return PrefixId{uint64_t{1} << 63 | XXH3_64bits(salt.data(), salt.size())};
}

std::optional<PrefixBlock> PrefixCache::Find(PrefixId parent, absl::Span<const int32_t> tokens) const {
  const auto found = blocks_.find(KeyOf(parent, tokens));
  if (found == blocks_.end() || TokensOf(found->second) != tokens) return std::nullopt;
  return PrefixBlock{prefixes_[found->second], found->second};
}

PrefixBlock PrefixCache::Insert(PrefixId parent, absl::Span<const int32_t> tokens, int32_t block) {
  const auto [entry, added] = blocks_.try_emplace(KeyOf(parent, tokens), block);
  if (!added && TokensOf(entry->second) == tokens) return {prefixes_[entry->second], entry->second};
  const PrefixId prefix{++last_prefix_};
  // Where the hash of other tokens is the same, their block stays and nobody finds this one.
  if (!added) return {prefix, block};
  pool_.Keep(block);
  keys_[block] = entry->first;
  prefixes_[block] = prefix;
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + int64_t{block} * block_tokens_);
  return {prefix, block};
}

PrefixCache::Key PrefixCache::KeyOf(PrefixId parent, absl::Span<const int32_t> tokens) const {
  CONCLAVE_CHECK(static_cast<int>(tokens.size()) == block_tokens_) << tokens.size() << " tokens";
  return {parent, XXH3_64bits(tokens.data(), tokens.size() * sizeof(int32_t))};
}

absl::Span<const int32_t> PrefixCache::TokensOf(int32_t block) const {
  return absl::MakeConstSpan(tokens_).subspan(static_cast<size_t>(block) * block_tokens_, block_tokens_);
}

void PrefixCache::Evict(int32_t block) { CONCLAVE_CHECK(blocks_.erase(keys_[block]) == 1) << "block " << block; }

}  // namespace conclave
