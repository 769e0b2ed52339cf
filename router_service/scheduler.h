// Decides which rows of which sequences the next step computes. Pure logic: it knows tokens, positions and blocks, and
// nothing of models. How it decides is told in docs/serving.md.
//
// Sequences are served in order of rank: arrival, plus a handicap for each step of priority, so that who waits long
// enough outranks every newcomer and nobody starves. Each step takes
//   1. one row of every decoding sequence,
//   2. new sequences from the queue, while there are places, blocks, and rows to give them,
//   3. chunks of what is being prefilled: the first in rank gets at least half of the rows, those with the fewest rows
//      missing get the others, so that a short prompt does not wait for the end of a long one.
// When blocks run out, the last in rank of those that run gives back all of its own and waits; its tokens, generated
// ones too, are computed again later. The same positions give the same bits, so nobody can tell. A waiting sequence of
// a better priority may take the place of running ones in the same way.
//
// Full blocks are shared through a PrefixCache. Who waits while a running sequence computes a prefix that it needs too
// is admitted once the prefix is there.
#ifndef CONCLAVE_ROUTER_SERVICE_SCHEDULER_H_
#define CONCLAVE_ROUTER_SERVICE_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "router_service/batch.h"
#include "router_service/kv_cache.h"
#include "router_service/prefix_cache.h"

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
  bool prefix_cache = true;
};

// A sequence as the scheduler sees it.
struct ScheduledRequest {
  SequenceId sequence{0};
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> generated_ids;  // of a resumed sequence: the tokens after its prompt
  int max_tokens = 1;                  // generated_ids count; 0: it ends once its prompt is computed
  std::vector<int32_t> ending_ids;     // ascending: the first of these ends the sequence
  // Rows at this position and behind it give their logits when they are computed for the first time. Whatever it is,
  // the row that chooses the next token gives its own.
  int32_t logits_from = std::numeric_limits<int32_t>::max();
  int32_t priority = 0;  // lower numbers first
  std::string cache_salt;
  absl::Time arrival = absl::UnixEpoch();
  absl::Time deadline = absl::InfiniteFuture();
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
  // generated_ids' length, or both 0) and a new id
  absl::Status Add(ScheduledRequest request);
  // Ends a sequence and frees its blocks at once. False where it is unknown or has ended.
  bool Cancel(SequenceId sequence);
  // Ends the sequences whose deadline is at or before `now`, running ones first. Valid until the next call.
  absl::Span<const SequenceId> Expire(absl::Time now);
  // The next step, empty when nobody needs one. What is not committed before the next call is given out again, in the
  // same step or another.
  // prefill_rows_max: rows beside those of decoding sequences, >= 0; no limit where nobody decodes.
  const Batch& Next(int prefill_rows_max = std::numeric_limits<int>::max());
  // sampled: [slices], the token for each slice that samples (others are ignored). Sequences that were cancelled
  // since Next are skipped. Returns the tokens in order of the slices, valid until the next call.
  absl::Span<const ScheduledToken> Commit(const Batch& batch, absl::Span<const int32_t> sampled);

  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  // Running sequences that miss nothing but the row of the token sampled last.
  int decoding() const;
  int64_t preemptions() const { return preemptions_; }
  const KvBlockPool& blocks() const { return pool_; }
  // What the limits amount to: sequences that may run at once, and that may run or wait.
  int running_max() const { return running_max_; }
  int live_max() const { return running_max_ + options_.sequences_queued_max; }

 private:
  struct Sequence;

  bool Before(const Sequence& a, const Sequence& b) const;
  // scheduler_admission.cc
  void PreemptForUrgent();
  void AdmitWaiting(int prefill_rows);
  void Admit(Sequence& sequence);
  void FindPrefix(const Sequence& sequence);
  const Sequence* PrefixComes(const Sequence& sequence, int32_t& until) const;
  bool StillWaits(const Sequence& sequence) const;
  bool WaitsForPrefix(Sequence& sequence);
  bool MayRun(const Sequence& sequence, int64_t survivors) const;
  int64_t ShareableBlocks(const Sequence& sequence) const;
  void Preempt(Sequence& sequence);
  void KeepFullBlocks(Sequence& sequence);
  // scheduler.cc
  void ScheduleDecodes();
  void SchedulePrefills(int rows);
  int SchedulePrefill(Sequence& sequence, int rows_max);
  int ChunkRows(const Sequence& sequence, int rows_max) const;
  void Append(Sequence& sequence, int rows);
  FinishReason Finish(const Sequence& sequence) const;
  void Erase(Sequence& sequence);

  SchedulerOptions options_;
  int running_max_;
  KvBlockPool pool_;
  std::optional<PrefixCache> prefixes_;
  absl::flat_hash_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_;  // in order of rank, as waiting_ is
  std::deque<Sequence*> waiting_;
  Batch batch_;
  std::vector<ScheduledToken> tokens_;
  std::vector<SequenceId> expired_;
  std::vector<Sequence*> prefills_;
  std::vector<PrefixBlock> matched_;  // what FindPrefix found
  int64_t preemptions_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SCHEDULER_H_
