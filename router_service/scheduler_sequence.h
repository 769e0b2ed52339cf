// What the scheduler keeps of a sequence. Internal to it.
#ifndef CONCLAVE_ROUTER_SERVICE_SCHEDULER_SEQUENCE_H_
#define CONCLAVE_ROUTER_SERVICE_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "router_service/scheduler.h"

namespace conclave {

// One step of priority counts as much as having arrived so much later.
inline constexpr absl::Duration kPriorityStep = absl::Seconds(10);

struct Scheduler::Sequence {
  Sequence(ScheduledRequest request, KvBlockPool& pool, int block_tokens)
      : id(request.sequence),
        tokens(std::move(request.prompt_ids)),
        prompt(static_cast<int32_t>(tokens.size())),
        max_tokens(request.max_tokens),
        ending_ids(std::move(request.ending_ids)),
        logits_from(request.logits_from),
        priority(request.priority),
        rank(request.arrival + request.priority * kPriorityStep),
        deadline(request.deadline),
        root(PrefixCache::Root(request.cache_salt)),
        pages(pool, block_tokens) {
    tokens.insert(tokens.end(), request.generated_ids.begin(), request.generated_ids.end());
  }

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  int32_t pending() const { return size() - computed; }
  int32_t generated() const { return size() - prompt; }
  // One row is missing: the token that was sampled last.
  bool decoding() const { return pending() == 1; }

  const SequenceId id;
  std::vector<int32_t> tokens;  // prompt, then answer
  const int32_t prompt;         // tokens of the prompt
  const int max_tokens;
  const std::vector<int32_t> ending_ids;  // ascending
  const int32_t logits_from;
  const int32_t priority;
  const absl::Time rank;  // lower ones first; among equals the one that was added first
  const absl::Time deadline;
  const PrefixId root;
  PageTable pages;
  int32_t computed = 0;       // positions [0, computed) are in the cache
  int32_t computed_ever = 0;  // the most that `computed` has been: below it, rows are replayed
  int32_t shared_blocks = 0;  // the first so many of its pages are in the prefix cache
  PrefixId prefix{0};         // that ends with the last of those
  bool running = false;
  bool in_batch = false;
  bool admitted_before = false;
  // A running sequence that computes what this one needs too, and up to which position; 0: none.
  SequenceId provider{0};
  int32_t provided_until = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_SCHEDULER_SEQUENCE_H_
