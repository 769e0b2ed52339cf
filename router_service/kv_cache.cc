#include "router_service/kv_cache.h"

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"

namespace conclave {

KvBlockPool::KvBlockPool(int32_t blocks) {
  CONCLAVE_CHECK(blocks >= 0) << blocks;
  references_.assign(blocks, 0);
  keep_.assign(blocks, false);
  next_.assign(blocks + 1, blocks);
  previous_.assign(blocks + 1, blocks);
  free_.reserve(blocks);
  // Block 0 is handed out first, which makes traces readable.
  for (int32_t block = blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t KvBlockPool::references(int32_t block) const {
  CONCLAVE_CHECK(block >= 0 && block < total()) << "block " << block << " of " << total();
  return references_[block];
}

std::optional<int32_t> KvBlockPool::Allocate() {
  int32_t block = 0;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (cached_ > 0) {
    block = next_[total()];
    Unlink(block);
    keep_[block] = false;
    if (on_evict_ != nullptr) on_evict_(block);
  } else {
    return std::nullopt;
  }
  CONCLAVE_CHECK(references_[block] == 0) << "block " << block << " was given out and in use";
  references_[block] = 1;
  return block;
}

void KvBlockPool::AddReference(int32_t block) {
  if (references(block) == 0) {
    CONCLAVE_CHECK(keep_[block]) << "block " << block << " is free and cannot be shared";
    Unlink(block);
  }
  ++references_[block];
}

void KvBlockPool::Release(int32_t block) {
  CONCLAVE_CHECK(references(block) > 0) << "block " << block << " was released twice";
  if (--references_[block] > 0) return;
  if (!keep_[block]) {
    free_.push_back(block);
    return;
  }
  const int32_t ring = total();
  const int32_t last = previous_[ring];
  next_[last] = previous_[ring] = block;
  previous_[block] = last;
  next_[block] = ring;
  ++cached_;
}

void KvBlockPool::Keep(int32_t block) {
  CONCLAVE_CHECK(references(block) > 0) << "block " << block << " is not held and has nothing to keep";
  keep_[block] = true;
}

void KvBlockPool::Unlink(int32_t block) {
  next_[previous_[block]] = next_[block];
  previous_[next_[block]] = previous_[block];
  --cached_;
}

absl::Status KvBlockPool::CheckInvariants() const {
  std::vector<int> listed(references_.size(), 0);
  for (int32_t block : free_) ++listed[block];
  int32_t cached = 0;
  for (int32_t block = next_[total()]; block != total(); block = next_[block], ++cached) {
    if (!keep_[block] || cached > cached_) return absl::InternalError(absl::StrCat("block ", block, " is not kept"));
    ++listed[block];
  }
  if (cached != cached_) return absl::InternalError(absl::StrCat(cached, " of ", cached_, " blocks are cached"));
  for (int32_t block = 0; block < total(); ++block) {
    if (references_[block] < 0 || listed[block] != (references_[block] == 0 ? 1 : 0)) {
      return absl::InternalError(absl::StrCat("block ", block, " has ", references_[block], " references and stands ",
                                              listed[block], " times in the lists of free and cached ones"));
    }
  }
  return absl::OkStatus();
}

PageTable::PageTable(KvBlockPool& pool, int block_tokens) : pool_(pool), block_tokens_(block_tokens) {
  CONCLAVE_CHECK(block_tokens >= 1) << block_tokens;
}

bool PageTable::Grow(int64_t tokens) {
  const int64_t missing = BlocksFor(tokens, block_tokens_) - static_cast<int64_t>(blocks_.size());
  if (missing > pool_.available()) return false;
  for (int64_t i = 0; i < missing; ++i) blocks_.push_back(*pool_.Allocate());
  return true;
}

void PageTable::AppendShared(int32_t block) {
  pool_.AddReference(block);
  blocks_.push_back(block);
}

void PageTable::Replace(int64_t index, int32_t block) {
  CONCLAVE_CHECK(index >= 0 && index < static_cast<int64_t>(blocks_.size())) << index << " of " << blocks_.size();
  pool_.AddReference(block);
  pool_.Release(blocks_[index]);
  blocks_[index] = block;
}

void PageTable::Clear() {
  // Backwards: the next sequence gets them in ascending order again, and of cached ones the end of a prefix is given
  // out before its beginning, without which it could not be found.
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) pool_.Release(*block);
  blocks_.clear();
}

}  // namespace conclave
