// The half of generation.h that runs an engine in this process.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "cli/generation.h"
#include "moe/base/status_macros.h"
#include "moe/grammar/grammar.h"
#include "moe/tokenizer/chat_template.h"
#include "moe/tokenizer/detokenizer.h"
#include "moe/tokenizer/tokenizer.h"

namespace conclave {
namespace {

// Hands the engine's events to the thread that waits for them.
class EventQueue {
 public:
  void Push(const TokenEvent& event) {
    absl::MutexLock lock(&mutex_);
    events_.push_back(event);
  }

  std::vector<TokenEvent> Wait() {
    absl::MutexLock lock(&mutex_, absl::Condition(this, &EventQueue::HasEvents));
    return std::exchange(events_, {});
  }

 private:
  bool HasEvents() const { return !events_.empty(); }

  absl::Mutex mutex_;
  std::vector<TokenEvent> events_;
};

absl::StatusOr<std::vector<int32_t>> PromptIds(const GenerationRequest& request, const Tokenizer& tokenizer,
                                               const std::string& directory) {
  if (!request.chat) return EncodePrompt(tokenizer, request.prompt);
  ASSIGN_OR_RETURN(const auto chat_template, ChatTemplate::Load(directory));
  ASSIGN_OR_RETURN(const auto pieces, chat_template->Render({ChatTurn{"user", request.prompt}}, true));
  return EncodePieces(tokenizer, pieces);
}

uint64_t DrawSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// Requests that run at the same time as the one that counts: other prompts, other lengths, other parameters.
EngineRequest Companion(const std::vector<int32_t>& prompt_ids, int index, int vocab) {
  EngineRequest companion;
  const size_t length = 1 + static_cast<size_t>(index * 13 % 40);
  for (size_t i = 0; i < length; ++i) {
    const int64_t id = prompt_ids[i % prompt_ids.size()] + int64_t{7919} * (index + 1) * static_cast<int64_t>(i + 1);
    companion.prompt_ids.push_back(static_cast<int32_t>(id % vocab));
  }
  companion.max_tokens = 16 + index * 5 % 32;
  companion.ignore_eos = true;
  companion.sampling.temperature = index % 2 == 0 ? 0.0f : 1.0f;
  companion.sampling.seed = static_cast<uint64_t>(index);
  return companion;
}

EngineRequest ToEngineRequest(const GenerationRequest& request, std::vector<int32_t> prompt_ids) {
  EngineRequest engine_request;
  engine_request.prompt_ids = std::move(prompt_ids);
  engine_request.sampling.temperature = static_cast<float>(request.temperature);
  engine_request.sampling.top_p = static_cast<float>(request.top_p);
  engine_request.sampling.top_k = request.top_k;
  engine_request.sampling.seed = request.seed.has_value() ? *request.seed : DrawSeed();
  engine_request.max_tokens = request.max_tokens;
  engine_request.ignore_eos = request.ignore_eos;
  engine_request.hash_logits = request.hash_logits;
  if (!request.json_schema.empty()) {
    engine_request.grammar = {GrammarSpec::Kind::kJsonSchema, request.json_schema, {}};
  }
  engine_request.report_expert_use = true;
  return engine_request;
}

// Takes one event of the stream into `result`. A failed sequence is an error.
absl::Status TakeEvent(const TokenEvent& event, const GenerationRequest& request, const std::vector<int32_t>& eos_ids,
                       Detokenizer& detokenizer, GenerationResult& result, const TextSink& sink) {
  RETURN_IF_ERROR(event.status);
  std::string text;
  if (event.token >= 0) {
    result.ids.push_back(event.token);
    const bool is_eos = std::find(eos_ids.begin(), eos_ids.end(), event.token) != eos_ids.end();
    if (!is_eos) text = detokenizer.Append(event.token);  // EOS stands in ids, never in the text
  }
  if (event.ended()) {
    text += detokenizer.Flush();
    result.finish_reason = event.finish == FinishReason::kStop ? "stop" : "length";
    if (request.hash_logits) result.logits_hash = absl::StrFormat("%016x", event.logits_hash);
    result.expert_use = event.expert_use;
  }
  result.text += text;
  if (!text.empty()) sink(text);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationResult> GenerateLocally(LocalCluster& cluster, const GenerationRequest& request, int beside,
                                                 const TextSink& sink) {
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(cluster.checkpoint().directory()));
  GenerationResult result;
  ASSIGN_OR_RETURN(result.prompt_ids, PromptIds(request, *tokenizer, cluster.checkpoint().directory()));
  const ModelSpec& spec = cluster.checkpoint().spec();

  std::vector<SequenceId> companions;
  for (int i = 0; i < beside; ++i) {
    ASSIGN_OR_RETURN(const SequenceId id,
                     cluster.engine().Submit(Companion(result.prompt_ids, i, spec.vocab), [](const TokenEvent&) {}));
    companions.push_back(id);
  }
  // The queue is shared with the engine's thread, which may still hold it when an error ends this function.
  const auto queue = std::make_shared<EventQueue>();
  ASSIGN_OR_RETURN(const SequenceId sequence,
                   cluster.engine().Submit(ToEngineRequest(request, result.prompt_ids),
                                           [queue](const TokenEvent& event) { queue->Push(event); }));
  Detokenizer detokenizer(tokenizer.get());
  absl::Status status;
  for (bool ended = false; !ended && status.ok();) {
    for (const TokenEvent& event : queue->Wait()) {
      status = TakeEvent(event, request, spec.eos_ids, detokenizer, result, sink);
      ended = event.ended();
      if (!status.ok()) break;
    }
  }
  cluster.engine().Cancel(sequence);
  for (const SequenceId id : companions) cluster.engine().Cancel(id);
  RETURN_IF_ERROR(status);
  return result;
}

}  // namespace conclave
