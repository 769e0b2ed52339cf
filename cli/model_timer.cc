#include "cli/model_timer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "moe/base/status_macros.h"
#include "router_service/engine.h"

namespace conclave {
namespace {

// Token ids that differ between sequences, so that no cache of prefixes answers for the model.
std::vector<int32_t> PromptIds(int count, uint64_t seed, int vocab) {
  std::vector<int32_t> ids;
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
  for (int i = 0; i < count; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    ids.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab)));
  }
  return ids;
}

}  // namespace

absl::StatusOr<double> ModelTimer::Prefill(int tokens) {
  const absl::Time start = absl::Now();
  ASSIGN_OR_RETURN(const std::vector<Stream> streams, Run(1, tokens, 1));
  return tokens / absl::ToDoubleSeconds(streams[0].tokens.back() - start);
}

absl::StatusOr<double> ModelTimer::Decode(int count, int tokens, int depth) {
  // Sequences may begin some steps after each other; the first ones go on until the last has been there for a while.
  const int late_steps_max = count - 1;
  ASSIGN_OR_RETURN(const std::vector<Stream> streams, Run(count, depth, tokens + 1 + late_steps_max));
  absl::Time all_began = absl::InfinitePast();
  const Stream* first_to_end = &streams[0];
  for (const Stream& stream : streams) {
    all_began = std::max(all_began, stream.tokens.front());
    if (stream.tokens.back() < first_to_end->tokens.back()) first_to_end = &stream;
  }
  // From token to token of one sequence: these are whole steps, in each of which the others have one token too.
  const auto begin = std::lower_bound(first_to_end->tokens.begin(), first_to_end->tokens.end(), all_began);
  if (first_to_end->tokens.end() - begin < 2) {
    return absl::FailedPreconditionError(absl::StrCat("of ", count, " sequences the first had its ", tokens,
                                                      " tokens before the last began; let them generate more"));
  }
  const absl::Time end = first_to_end->tokens.back();
  int64_t between = 0;
  for (const Stream& stream : streams) {
    between += std::count_if(stream.tokens.begin(), stream.tokens.end(),
                             [&](absl::Time token) { return *begin < token && token <= end; });
  }
  return static_cast<double>(between) / absl::ToDoubleSeconds(end - *begin);
}

absl::StatusOr<std::vector<ModelTimer::Stream>> ModelTimer::Run(int count, int prompt_tokens, int answer_tokens) {
  // Shared with the engine's thread, which may still be inside a callback when the wait is over.
  struct Shared {
    explicit Shared(int count) : streams(static_cast<size_t>(count)), left(count) {}
    std::vector<Stream> streams;
    absl::BlockingCounter left;
  };
  const auto shared = std::make_shared<Shared>(count);
  std::vector<SequenceId> sequences;
  for (int i = 0; i < count; ++i) {
    EngineRequest request;
    request.prompt_ids = PromptIds(prompt_tokens, ++prompts_, cluster_.checkpoint().spec().vocab);
    request.sampling = sampling_;
    request.sampling.seed = prompts_;
    request.max_tokens = answer_tokens;
    request.ignore_eos = true;
    absl::StatusOr<SequenceId> id =
        cluster_.engine().Submit(std::move(request), [shared, i](const TokenEvent& event) {
          Stream& stream = shared->streams[static_cast<size_t>(i)];
          stream.tokens.push_back(absl::Now());
          if (!event.ended()) return;
          stream.status = event.status;
          shared->left.DecrementCount();
        });
    if (!id.ok()) {
      for (const SequenceId started : sequences) cluster_.engine().Cancel(started);
      return id.status();
    }
    sequences.push_back(*id);
  }
  shared->left.Wait();
  for (const Stream& stream : shared->streams) RETURN_IF_ERROR(stream.status);
  return shared->streams;
}

}  // namespace conclave
