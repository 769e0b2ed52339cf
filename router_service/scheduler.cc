#include "router_service/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "router_service/scheduler_sequence.h"

namespace conclave {
namespace {

SchedulerOptions Checked(const SchedulerOptions& options) {
  CONCLAVE_CHECK(options.batch_tokens_max >= 1 && options.prefill_chunk_tokens_max >= 1 &&
                 options.logit_rows_max >= 1 && options.sequences_running_max >= 1 &&
                 options.sequences_queued_max >= 1 && options.context_max >= 1 && options.kv_blocks >= 1 &&
                 options.kv_block_tokens >= 1)
      << "a limit of the scheduler is below 1";
  return options;
}

}  // namespace

// Every running sequence must be able to get one row with logits in each step, so that none starves.
Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(Checked(options)),
      running_max_(std::min({options.sequences_running_max, options.batch_tokens_max, options.logit_rows_max})),
      pool_(options.kv_blocks) {
  if (options_.prefix_cache) prefixes_.emplace(pool_, options_.kv_block_tokens);
  running_.reserve(running_max_);
  batch_.slices.reserve(running_max_);
  tokens_.reserve(running_max_);
  prefills_.reserve(running_max_);
}

Scheduler::~Scheduler() = default;

absl::Status Scheduler::Add(ScheduledRequest request) {
  const int64_t generated = static_cast<int64_t>(request.generated_ids.size());
  const int64_t prompt = static_cast<int64_t>(request.prompt_ids.size());
  CONCLAVE_CHECK(prompt >= 1 && std::max(request.max_tokens, 1) > generated);
  CONCLAVE_CHECK(prompt + generated < options_.context_max);
  if (static_cast<int64_t>(sequences_.size()) >= live_max()) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", running_.size(), " sequences run and ",
                                                     waiting_.size(), " wait; try again later"));
  }
  const int64_t tokens_max = std::min<int64_t>(prompt + int64_t{request.max_tokens}, options_.context_max);
  const int64_t blocks = BlocksFor(tokens_max, options_.kv_block_tokens);
  if (blocks > pool_.total()) {
    return absl::ResourceExhaustedError(absl::StrCat("the request may need ", blocks, " KV blocks (", tokens_max,
                                                     " tokens) and the cache has only ", pool_.total()));
  }
  const SequenceId id = request.sequence;
  auto [entry, added] = sequences_.try_emplace(id, nullptr);
  CONCLAVE_CHECK(added) << "sequence " << Value(id) << " was added twice";
  entry->second = std::make_unique<Sequence>(std::move(request), pool_, options_.kv_block_tokens);
  Sequence* sequence = entry->second.get();
  const auto later = [this](const Sequence* a, const Sequence* b) { return Before(*a, *b); };
  waiting_.insert(std::upper_bound(waiting_.begin(), waiting_.end(), sequence, later), sequence);
  return absl::OkStatus();
}

bool Scheduler::Cancel(SequenceId sequence) {
  const auto entry = sequences_.find(sequence);
  if (entry == sequences_.end()) return false;
  Erase(*entry->second);
  return true;
}

absl::Span<const SequenceId> Scheduler::Expire(absl::Time now) {
  expired_.clear();
  for (const Sequence* sequence : running_) {
    if (sequence->deadline <= now) expired_.push_back(sequence->id);
  }
  for (const Sequence* sequence : waiting_) {
    if (sequence->deadline <= now) expired_.push_back(sequence->id);
  }
  for (SequenceId id : expired_) Cancel(id);
  return expired_;
}

int Scheduler::decoding() const {
  return static_cast<int>(
      std::count_if(running_.begin(), running_.end(), [](const Sequence* sequence) { return sequence->decoding(); }));
}

const Batch& Scheduler::Next(int prefill_rows_max) {
  batch_.slices.clear();
  batch_.admissions.clear();
  batch_.rows = batch_.decode_rows = batch_.logit_rows = 0;
  for (Sequence* sequence : running_) sequence->in_batch = false;
  PreemptForUrgent();
  ScheduleDecodes();
  batch_.decode_rows = batch_.rows;
  int rows = options_.batch_tokens_max - batch_.rows;
  if (batch_.decode_rows > 0) rows = std::min(rows, prefill_rows_max);
  AdmitWaiting(rows);
  SchedulePrefills(rows);
  CONCLAVE_CHECK(batch_.rows <= options_.batch_tokens_max && batch_.logit_rows <= options_.logit_rows_max);
  return batch_;
}

void Scheduler::ScheduleDecodes() {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (!sequence.decoding()) continue;
    while (!sequence.pages.Grow(sequence.computed + 1)) {
      Sequence& last = *running_.back();
      Preempt(last);
      if (&last == &sequence) return;
    }
    Append(sequence, 1);
  }
}

void Scheduler::SchedulePrefills(int rows) {
  prefills_.clear();
  for (Sequence* sequence : running_) {
    if (!sequence->in_batch) prefills_.push_back(sequence);
  }
  if (prefills_.empty()) return;
  int64_t others = 0;
  for (size_t i = 1; i < prefills_.size(); ++i) {
    others += std::min(prefills_[i]->pending(), options_.prefill_chunk_tokens_max);
  }
  rows -= SchedulePrefill(*prefills_[0], rows - static_cast<int>(std::min<int64_t>(rows / 2, others)));
  std::sort(prefills_.begin() + 1, prefills_.end(), [this](const Sequence* a, const Sequence* b) {
    if (a->priority != b->priority) return a->priority < b->priority;
    return a->pending() != b->pending() ? a->pending() < b->pending() : Before(*a, *b);
  });
  for (size_t i = 1; i < prefills_.size(); ++i) {
    // Those before it may have taken its place.
    if (prefills_[i]->running) rows -= SchedulePrefill(*prefills_[i], rows);
  }
}

// Rows that the limits allow to prefill now, were there blocks for them; 0 where none.
int Scheduler::ChunkRows(const Sequence& sequence, int rows_max) const {
  int rows = std::min({sequence.pending(), options_.prefill_chunk_tokens_max, rows_max});
  const int logit_rows = options_.logit_rows_max - batch_.logit_rows;
  const int32_t wanted_from = std::max(sequence.logits_from, sequence.computed_ever);
  if (sequence.computed + rows > wanted_from) {
    rows = static_cast<int>(std::min<int64_t>(rows, int64_t{wanted_from} - sequence.computed + logit_rows));
  } else if (rows == sequence.pending() && logit_rows < 1) {
    --rows;
  }
  return rows;
}

// Returns the rows that it took.
int Scheduler::SchedulePrefill(Sequence& sequence, int rows_max) {
  const int wanted = ChunkRows(sequence, rows_max);
  if (wanted <= 0) return 0;
  while (true) {
    const int64_t reachable = sequence.pages.reachable_tokens() - sequence.computed;
    const int rows = static_cast<int>(std::min<int64_t>(wanted, reachable));
    if (rows > 0) {
      CONCLAVE_CHECK(sequence.pages.Grow(sequence.computed + rows));
      Append(sequence, rows);
      return rows;
    }
    // Only one behind it in rank gives way, and none whose rows stand in this batch already: then the batch is not
    // empty and blocks will come free without force.
    Sequence& last = *running_.back();
    if (&last == &sequence || last.in_batch) return 0;
    Preempt(last);
  }
}

void Scheduler::Append(Sequence& sequence, int rows) {
  BatchSlice slice;
  slice.sequence = sequence.id;
  slice.tokens = sequence.tokens;
  slice.token_ids = slice.tokens.subspan(sequence.computed, rows);
  slice.first_position = sequence.computed;
  slice.blocks = sequence.pages.blocks();
  slice.samples = rows == sequence.pending();
  slice.prompt_rows = std::clamp(sequence.prompt - sequence.computed, 0, rows);
  const int32_t wanted_from = std::max({sequence.logits_from, sequence.computed_ever, sequence.computed});
  slice.logit_rows = std::max(slice.end() - std::min(wanted_from, slice.end()), slice.samples ? 1 : 0);
  batch_.rows += rows;
  batch_.logit_rows += slice.logit_rows;
  batch_.slices.push_back(slice);
  sequence.in_batch = true;
}

absl::Span<const ScheduledToken> Scheduler::Commit(const Batch& batch, absl::Span<const int32_t> sampled) {
  CONCLAVE_CHECK(sampled.size() == batch.slices.size()) << sampled.size() << " of " << batch.slices.size();
  tokens_.clear();
  for (size_t i = 0; i < batch.slices.size(); ++i) {
    const BatchSlice& slice = batch.slices[i];
    const auto entry = sequences_.find(slice.sequence);
    if (entry == sequences_.end()) continue;
    Sequence& sequence = *entry->second;
    sequence.computed = slice.end();
    sequence.computed_ever = std::max(sequence.computed_ever, sequence.computed);
    KeepFullBlocks(sequence);
    if (!slice.samples) continue;
    if (sequence.max_tokens == 0) {
      tokens_.push_back({sequence.id, -1, FinishReason::kLength});
      Erase(sequence);
      continue;
    }
    sequence.tokens.push_back(sampled[i]);
    tokens_.push_back({sequence.id, sampled[i], Finish(sequence)});
    if (tokens_.back().finish != FinishReason::kNone) Erase(sequence);
  }
  return tokens_;
}

FinishReason Scheduler::Finish(const Sequence& sequence) const {
  const int32_t token = sequence.tokens.back();
  if (std::binary_search(sequence.ending_ids.begin(), sequence.ending_ids.end(), token)) return FinishReason::kStop;
  if (sequence.generated() >= sequence.max_tokens) return FinishReason::kLength;
  if (sequence.size() >= options_.context_max) return FinishReason::kLength;
  return FinishReason::kNone;
}

void Scheduler::Erase(Sequence& sequence) {
  running_.erase(std::remove(running_.begin(), running_.end(), &sequence), running_.end());
  waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), &sequence), waiting_.end());
  sequences_.erase(sequence.id);
}

}  // namespace conclave
