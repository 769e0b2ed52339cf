#include "gateway/dispatcher.h"

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "conclave/v1/control.pb.h"
#include "gateway/answer.h"
#include "gateway/prompt.h"
#include "gateway/validation.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr int kMaxTokensDefault = 128;

uint64_t Random64() {
  thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

v1::DecodeRequest ToDecodeRequest(const v1::GenerateRequest& request, const std::string& request_id,
                                  const std::vector<int32_t>& prompt_ids) {
  v1::DecodeRequest decode;
  decode.set_request_id(request_id);
  decode.mutable_prompt_ids()->Add(prompt_ids.begin(), prompt_ids.end());
  const v1::SamplingOptions& sampling = request.sampling();
  decode.mutable_sampling()->set_temperature(sampling.temperature());
  decode.mutable_sampling()->set_top_p(sampling.has_top_p() ? sampling.top_p() : 1.0f);
  decode.mutable_sampling()->set_top_k(sampling.top_k());
  // Drawn here, before the first dispatch, so that a stream which moves to another router goes on alike.
  decode.mutable_sampling()->set_seed(sampling.has_seed() ? sampling.seed() : Random64());
  decode.set_max_tokens(request.has_max_tokens() ? request.max_tokens() : kMaxTokensDefault);
  decode.set_ignore_eos(request.ignore_eos());
  decode.set_hash_logits(request.hash_logits());
  decode.set_report_expert_use(true);
  return decode;
}

}  // namespace

Dispatcher::Dispatcher(const ServedModel& model, RouterClient& router, Metrics& metrics)
    : model_(model), router_(router), metrics_(metrics, calls_) {}

absl::StatusOr<std::shared_ptr<AnswerHandle>> Dispatcher::Generate(const Caller& caller,
                                                                   const v1::GenerateRequest& request,
                                                                   absl::Time deadline,
                                                                   std::shared_ptr<AnswerSink> sink) {
  const bool named = !request.request_id().empty();
  const std::string request_id = named ? request.request_id() : absl::StrFormat("req-%016x", Random64());
  auto answer = Start(request, request_id, deadline, std::move(sink));
  if (!answer.ok()) {
    metrics_.RequestEnded("Generate", answer.status().code());
    // An id that was refused may hold anything; it does not belong into a log.
    const bool loggable = !named || ValidateRequestId(request_id).ok();
    LogInfo(absl::StrCat("request id=", loggable ? request_id : "refused",
                         " method=Generate code=", absl::StatusCodeToString(answer.status().code())));
  }
  return answer;
}

absl::StatusOr<std::shared_ptr<AnswerHandle>> Dispatcher::Start(const v1::GenerateRequest& request,
                                                                const std::string& request_id, absl::Time deadline,
                                                                std::shared_ptr<AnswerSink> sink) {
  RETURN_IF_ERROR(ValidateGenerate(request, model_.name, model_.vocab));
  ASSIGN_OR_RETURN(std::vector<int32_t> prompt_ids, PromptIds(model_, request));
  RETURN_IF_ERROR(
      ValidatePromptLength(PromptField(request), static_cast<int64_t>(prompt_ids.size()), model_.context_max));
  if (!calls_.Enter()) return absl::UnavailableError("this gateway is stopping; try another one");
  metrics_.prompt_tokens->Add(static_cast<double>(prompt_ids.size()));
  v1::DecodeRequest decode = ToDecodeRequest(request, request_id, prompt_ids);
  auto answer = std::make_shared<Answer>(model_, metrics_, calls_, request_id, std::move(prompt_ids), std::move(sink));
  answer->SetCall(router_.Decode(std::move(decode), deadline, answer));
  return answer;
}

absl::StatusOr<v1::TokenizeResponse> Dispatcher::Tokenize(const v1::TokenizeRequest& request) {
  const absl::Status valid = ValidateTokenize(request, model_.name);
  const absl::StatusOr<std::vector<int32_t>> ids = valid.ok() ? PromptIds(model_, request) : valid;
  metrics_.RequestEnded("Tokenize", ids.status().code());
  RETURN_IF_ERROR(ids.status());
  v1::TokenizeResponse response;
  response.mutable_ids()->Add(ids->begin(), ids->end());
  return response;
}

v1::ListModelsResponse Dispatcher::ListModels() {
  metrics_.RequestEnded("ListModels", absl::StatusCode::kOk);
  v1::ListModelsResponse response;
  v1::ModelInfo* model = response.add_models();
  model->set_id(model_.name);
  model->set_family(model_.family);
  model->set_context_tokens_max(model_.context_max);
  model->set_vocab_size(model_.vocab);
  return response;
}

}  // namespace conclave
