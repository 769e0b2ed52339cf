// Decides which rows of which sequences the next step computes. Pure logic: it knows tokens, positions and blocks, and
// nothing of models. How it decides is told in docs/architecture.md, "The life of a request".
//
// Sequences are served in order of arrival: those that run are always older than those that wait. Each step takes
//   1. one row of every decoding sequence,
//   2. chunks of prompts that are being prefilled,
//   3. new sequences from the queue, while rows and blocks last.
// When blocks run out, the youngest running sequence gives back all of its own and waits at the head of the queue; its
// tokens, generated ones too, are computed again later. The same positions give the same bits, so nobody can tell.
#ifndef CONCLAVE_ROUTER_SERVICE_SCHEDULER_H_
#define CONCLAVE_ROUTER_SERVICE_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "router_service/finish_reason.h"
#include "router_service/kv_cache.h"

namespace conclave {

// Limits. All are at least 1.
struct SchedulerOptions {
  int batch_tokens_max = 512;
  int prefill_chunk_tokens_max = 256;
  int logit_rows_max = 512;        // rows of one step whose logits are wanted
  int sequences_running_max = 64;  // fewer run where batch_tokens_max or logit_rows_max is smaller
  int sequences_queued_max = 256;
  int context_max = 2048;  // tokens of one sequence, prompt and answer together
  int32_t kv_blocks = 1024;
  int kv_block_tokens = 16;
};

// A sequence as the scheduler sees it.
struct ScheduledRequest {
  SequenceId sequence{0};
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> generated_ids;  // of a resumed sequence: the tokens after its prompt
  int max_tokens = 1;                  // generated_ids count
  std::vector<int32_t> ending_ids;     // ascending: the first of these ends the sequence
  // Rows at this position and behind it give their logits when they are computed for the first time. Whatever it is,
  // the row that chooses the next token gives its own.
  int32_t logits_from = std::numeric_limits<int32_t>::max();
  absl::Time deadline = absl::InfiniteFuture();
};

// Rows of one sequence in a step: positions [first_position, first_position + token_ids.size()).
// The spans are valid until Commit, or until the sequence is cancelled.
struct BatchSlice {
  SequenceId sequence{0};
  absl::Span<const int32_t> tokens;     // of the whole sequence, those that are not computed yet included
  absl::Span<const int32_t> token_ids;  // [n]: a part of `tokens`
  int32_t first_position = 0;
  absl::Span<const int32_t> blocks;  // of the whole sequence so far, these rows included
  int32_t logit_rows = 0;            // the last so many rows give their logits
  bool samples = false;              // the last row's logits choose the sequence's next token
  int32_t replayed_rows = 0;         // the first so many rows were computed before, and lost to a preemption
  int32_t prompt_rows = 0;           // the first so many rows are prompt, not answer

  int32_t end() const { return first_position + static_cast<int32_t>(token_ids.size()); }
};

// One step.
struct Batch {
  std::vector<BatchSlice> slices;  // at most one of each sequence
  int rows = 0;
  int logit_rows = 0;
};

// A token that a sequence got.
struct ScheduledToken {
  SequenceId sequence{0};
  int32_t token = 0;
  FinishReason finish = FinishReason::kNone;
};

// Used by one thread.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // RESOURCE_EXHAUSTED: the queue is full, or all blocks together could not hold the request.
  // REQUIRES: a valid request (prompt not empty, prompt and generated_ids shorter than the context, max_tokens above
  // generated_ids' length) and a new id
  absl::Status Add(ScheduledRequest request);
  // Ends a sequence and frees its blocks at once. False where it is unknown or has ended.
  bool Cancel(SequenceId sequence);
  // Ends the sequences whose deadline is at or before `now`, oldest first. Valid until the next call.
  absl::Span<const SequenceId> Expire(absl::Time now);
  // The next step, empty when nobody needs one. Must be committed, or its sequences cancelled, before the next call.
  const Batch& Next();
  // sampled: [slices], the token for each slice that samples (others are ignored). Sequences that were cancelled
  // since Next are skipped. Returns the tokens in order of the slices, valid until the next call.
  absl::Span<const ScheduledToken> Commit(const Batch& batch, absl::Span<const int32_t> sampled);

  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  int64_t preemptions() const { return preemptions_; }
  const KvBlockPool& blocks() const { return pool_; }
  // What the limits amount to: sequences that may run at once, and that may run or wait.
  int running_max() const { return running_max_; }
  int live_max() const { return running_max_ + options_.sequences_queued_max; }

 private:
  struct Sequence;

  void ScheduleDecodes();
  void SchedulePrefill(Sequence& sequence);
  void AdmitWaiting();
  bool MayAdmit(const Sequence& sequence) const;
  int ChunkRows(const Sequence& sequence) const;
  void Append(Sequence& sequence, int rows);
  void Preempt(Sequence& sequence);
  FinishReason Finish(const Sequence& sequence) const;
  void Erase(Sequence& sequence);

  SchedulerOptions options_;
  int running_max_;
  KvBlockPool pool_;
  absl::flat_hash_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_;  // oldest first; every one is older than all that wait
  std::deque<Sequence*> waiting_;   // oldest first
  Batch batch_;
  std::vector<ScheduledToken> tokens_;
  std::vector<SequenceId> expired_;
  int64_t preemptions_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SCHEDULER_H_
