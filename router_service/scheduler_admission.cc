// Who may run: admission, prefixes that are there or are coming, and preemption.
#include <algorithm>

#include "moe/base/check.h"
#include "router_service/scheduler.h"
#include "router_service/scheduler_sequence.h"

namespace conclave {
namespace {

// Sequences that are prefilled side by side, even where the first of them could use all rows of the step.
constexpr int kPrefillsMin = 4;

}  // namespace

bool Scheduler::Before(const Sequence& a, const Sequence& b) const {
  return a.rank != b.rank ? a.rank < b.rank : a.id < b.id;
}

// Blocks of which the sequence may take another's instead of computing them: full ones, before the first row whose
// logits are wanted. The last token is always computed, for its logits choose the next one.
int64_t Scheduler::ShareableBlocks(const Sequence& sequence) const {
  if (!prefixes_.has_value()) return 0;
  const int32_t tokens = std::min(sequence.size() - 1, std::max(sequence.logits_from, sequence.computed_ever));
  return tokens / options_.kv_block_tokens;
}

void Scheduler::FindPrefix(const Sequence& sequence) {
  matched_.clear();
  const int64_t blocks = ShareableBlocks(sequence);
  const size_t size = options_.kv_block_tokens;
  PrefixId parent = sequence.root;
  for (int64_t block = 0; block < blocks; ++block) {
    const auto found = prefixes_->Find(parent, absl::MakeConstSpan(sequence.tokens).subspan(block * size, size));
    if (!found.has_value()) return;
    matched_.push_back(*found);
    parent = found->prefix;
  }
}

// A running sequence that will soon have more of this one's prefix than matched_, and the position up to which.
const Scheduler::Sequence* Scheduler::PrefixComes(const Sequence& sequence, int32_t& until) const {
  const int32_t shareable = static_cast<int32_t>(ShareableBlocks(sequence) * options_.kv_block_tokens);
  const int32_t matched = static_cast<int32_t>(matched_.size()) * options_.kv_block_tokens;
  if (shareable <= matched) return nullptr;
  for (const Sequence* other : running_) {
    // To wait for one of a lower priority would turn the order upside down.
    if (other->root != sequence.root || other->priority > sequence.priority) continue;
    const int32_t common = std::min(shareable, other->size());
    const auto differ = std::mismatch(sequence.tokens.begin(), sequence.tokens.begin() + common, other->tokens.begin());
    until = static_cast<int32_t>(differ.first - sequence.tokens.begin());
    until -= until % options_.kv_block_tokens;
    if (until > matched && other->computed < until) return other;
  }
  return nullptr;
}

// Whether the sequence that this one was found to wait for is still on its way.
bool Scheduler::StillWaits(const Sequence& sequence) const {
  if (sequence.provided_until == 0) return false;
  const auto provider = sequences_.find(sequence.provider);
  return provider != sequences_.end() && provider->second->running &&
         provider->second->computed < sequence.provided_until;
}

// Whether the sequence should stay in the queue until somebody else has computed what it needs too; else matched_ is
// what is there for it.
bool Scheduler::WaitsForPrefix(Sequence& sequence) {
  if (StillWaits(sequence)) return true;
  FindPrefix(sequence);
  const Sequence* provider = PrefixComes(sequence, sequence.provided_until);
  if (provider == nullptr) sequence.provided_until = 0;
  if (provider != nullptr) sequence.provider = provider->id;
  return provider != nullptr;
}

// Places and blocks for `sequence`, were only the first `survivors` of running_ left: room for all that it must compute
// before its next token, beside what the running ones need for theirs and one block each to grow into. Who is admitted
// should not be preempted by the very next steps. It also keeps out who was preempted in this step, for the blocks that
// it gave back are one too few for it. Uses matched_.
bool Scheduler::MayRun(const Sequence& sequence, int64_t survivors) const {
  if (survivors == 0) return true;
  if (survivors >= running_max_) return false;
  int64_t needed = BlocksFor(int64_t{sequence.size()} + 1, options_.kv_block_tokens);
  for (const PrefixBlock& matched : matched_) needed -= pool_.references(matched.block) > 0;
  int64_t available = pool_.available();
  for (int64_t i = 0; i < running(); ++i) {
    const Sequence& other = *running_[i];
    const int64_t held = static_cast<int64_t>(other.pages.blocks().size());
    if (i < survivors) {
      needed += std::max<int64_t>(0, BlocksFor(other.size(), options_.kv_block_tokens) - held) + 1;
    } else {
      for (int32_t block : other.pages.blocks()) available += pool_.references(block) == 1;
    }
  }
  return needed <= available;
}

// Lets the first of the queue take the place of running sequences of lower priority, if that is enough.
void Scheduler::PreemptForUrgent() {
  if (waiting_.empty() || running_.empty()) return;
  Sequence& urgent = *waiting_.front();
  const auto gives_way = [&](const Sequence& other) {
    return other.priority > urgent.priority && Before(urgent, other);
  };
  if (!gives_way(*running_.back())) return;
  if (WaitsForPrefix(urgent)) return;
  int64_t survivors = running();
  while (!MayRun(urgent, survivors)) {
    if (survivors == 0 || !gives_way(*running_[survivors - 1])) return;
    --survivors;
  }
  while (running() > survivors) Preempt(*running_.back());
}

// rows: what the step has left for prefill.
void Scheduler::AdmitWaiting(int rows) {
  int64_t claimed = 0;
  int prefilling = 0;
  for (const Sequence* sequence : running_) {
    if (sequence->in_batch) continue;
    claimed += std::min(sequence->pending(), options_.prefill_chunk_tokens_max);
    ++prefilling;
  }
  for (size_t i = 0; i < waiting_.size() && rows > 0 && running() < running_max_;) {
    if (claimed >= rows && prefilling >= kPrefillsMin) return;
    Sequence& sequence = *waiting_[i];
    if (WaitsForPrefix(sequence)) {
      ++i;
      continue;
    }
    if (!MayRun(sequence, running())) return;
    waiting_.erase(waiting_.begin() + static_cast<int64_t>(i));
    Admit(sequence);
    claimed += std::min(sequence.pending(), options_.prefill_chunk_tokens_max);
    ++prefilling;
  }
}

void Scheduler::Admit(Sequence& sequence) {
  for (const PrefixBlock& matched : matched_) sequence.pages.AppendShared(matched.block);
  sequence.shared_blocks = static_cast<int32_t>(matched_.size());
  sequence.prefix = matched_.empty() ? sequence.root : matched_.back().prefix;
  sequence.computed = sequence.shared_blocks * options_.kv_block_tokens;
  sequence.computed_ever = std::max(sequence.computed_ever, sequence.computed);
  sequence.running = true;
  sequence.in_batch = false;
  const auto later = [this](const Sequence* a, const Sequence* b) { return Before(*a, *b); };
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &sequence, later), &sequence);
  if (std::exchange(sequence.admitted_before, true)) return;
  batch_.admissions.push_back({sequence.id, sequence.prompt, std::min(sequence.computed, sequence.prompt)});
}

void Scheduler::Preempt(Sequence& sequence) {
  CONCLAVE_CHECK(running_.back() == &sequence && !sequence.in_batch);
  running_.pop_back();
  const auto later = [this](const Sequence* a, const Sequence* b) { return Before(*a, *b); };
  waiting_.insert(std::upper_bound(waiting_.begin(), waiting_.end(), &sequence, later), &sequence);
  sequence.running = false;
  sequence.pages.Clear();
  sequence.computed = sequence.shared_blocks = 0;
  ++preemptions_;
}

// What is computed and full is there for others from now on. Where it is there already, this sequence goes on with the
// other block, which holds the same bits, and its own is free.
void Scheduler::KeepFullBlocks(Sequence& sequence) {
  if (!prefixes_.has_value()) return;
  const size_t size = options_.kv_block_tokens;
  while ((sequence.shared_blocks + 1) * options_.kv_block_tokens <= sequence.computed) {
    const int32_t index = sequence.shared_blocks++;
    const int32_t own = sequence.pages.blocks()[index];
    const auto kept =
        prefixes_->Insert(sequence.prefix, absl::MakeConstSpan(sequence.tokens).subspan(index * size, size), own);
    if (kept.block != own) sequence.pages.Replace(index, kept.block);
    sequence.prefix = kept.prefix;
  }
}

}  // namespace conclave
