#include "router_service/kv_cache.h"

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"

namespace conclave {

KvBlockPool::KvBlockPool(int32_t blocks) {
  CONCLAVE_CHECK(blocks >= 0) << blocks;
  references_.assign(blocks, 0);
  free_.reserve(blocks);
  // Block 0 is handed out first, which makes traces readable.
  for (int32_t block = blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t KvBlockPool::references(int32_t block) const {
  CONCLAVE_CHECK(block >= 0 && block < total()) << "block " << block << " of " << total();
  return references_[block];
}

std::optional<int32_t> KvBlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  const int32_t block = free_.back();
  free_.pop_back();
  CONCLAVE_CHECK(references_[block] == 0) << "block " << block << " was in the free list and in use";
  references_[block] = 1;
  return block;
}

void KvBlockPool::AddReference(int32_t block) {
  CONCLAVE_CHECK(references(block) > 0) << "block " << block << " is free and cannot be shared";
  ++references_[block];
}

void KvBlockPool::Release(int32_t block) {
  CONCLAVE_CHECK(references(block) > 0) << "block " << block << " was released twice";
  if (--references_[block] == 0) free_.push_back(block);
}

absl::Status KvBlockPool::CheckInvariants() const {
  std::vector<bool> listed(references_.size(), false);
  for (int32_t block : free_) {
    if (listed[block]) return absl::InternalError(absl::StrCat("block ", block, " is twice in the free list"));
    listed[block] = true;
  }
  for (int32_t block = 0; block < total(); ++block) {
    if (references_[block] < 0 || listed[block] != (references_[block] == 0)) {
      return absl::InternalError(absl::StrCat("block ", block, " has ", references_[block], " references and is ",
                                              listed[block] ? "" : "not ", "in the free list"));
    }
  }
  return absl::OkStatus();
}

PageTable::PageTable(KvBlockPool& pool, int block_tokens) : pool_(pool), block_tokens_(block_tokens) {
  CONCLAVE_CHECK(block_tokens >= 1) << block_tokens;
}

bool PageTable::Grow(int64_t tokens) {
  const int64_t missing = BlocksFor(tokens, block_tokens_) - static_cast<int64_t>(blocks_.size());
  if (missing > pool_.free()) return false;
  for (int64_t i = 0; i < missing; ++i) blocks_.push_back(*pool_.Allocate());
  return true;
}

void PageTable::AppendShared(int32_t block) {
  pool_.AddReference(block);
  blocks_.push_back(block);
}

void PageTable::Clear() {
  // Backwards, so that the next sequence gets them in ascending order again.
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) pool_.Release(*block);
  blocks_.clear();
}

}  // namespace conclave
