#include "gateway/dispatcher.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "gateway/answer.h"
#include "gateway/answer_text.h"
#include "gateway/decode_request.h"
#include "gateway/prompt.h"
#include "gateway/refusal.h"
#include "gateway/request_trace.h"
#include "gateway/validation.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

bool IsAllowed(const Tenant& tenant, const std::string& model) {
  const auto& allowed = tenant.allowed_models;
  return allowed.empty() || std::find(allowed.begin(), allowed.end(), model) != allowed.end();
}

absl::Status CheckAllowed(const Tenant& tenant, const std::string& model) {
  if (IsAllowed(tenant, model)) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("model: tenant ", tenant.name, " may not use '", model, "'"));
}

// What stands before an answer that echoes its prompt: the text as it was given, or what the ids say.
std::string EchoText(const ServedModel& model, const v1::GenerateRequest& request, const std::vector<int32_t>& ids) {
  if (!request.echo()) return "";
  return request.has_text() ? request.text() : TextOf(model, ids);
}

AnswerStops StopsOf(const v1::GenerateRequest& request) {
  AnswerStops stops;
  stops.texts.assign(request.stop().begin(), request.stop().end());
  stops.ids.assign(request.stop_token_ids().begin(), request.stop_token_ids().end());
  std::sort(stops.ids.begin(), stops.ids.end());
  return stops;
}

}  // namespace

Dispatcher::Dispatcher(const ServedModel& model, DecodeBackend& backend, Metrics& metrics, UsageLog* usage_log,
                       Tracer* tracer, int gateways)
    : model_(model),
      backend_(backend),
      usage_log_(usage_log),
      tracer_(tracer != nullptr && tracer->enabled() ? tracer : nullptr),
      limits_(Clock::Real(), gateways),
      metrics_(metrics, calls_),
      tenant_metrics_(metrics) {}

absl::StatusOr<std::shared_ptr<AnswerHandle>> Dispatcher::Generate(const Caller& caller,
                                                                   const v1::GenerateRequest& request,
                                                                   absl::Time deadline,
                                                                   std::shared_ptr<AnswerSink> sink) {
  const bool named = !request.request_id().empty();
  const std::string request_id = named ? request.request_id() : absl::StrFormat("req-%016x", Random64());
  const UsageRecord usage = BeginUsage(*caller.tenant, request_id);
  const auto trace = RequestTrace::Begin(tracer_, caller, request, usage.request_id, model_.name, usage.arrival);
  auto answer = Start(caller, request, request_id, deadline, usage, trace, std::move(sink));
  if (!answer.ok()) {
    if (trace != nullptr) trace->End(answer.status(), {}, {});
    RecordRefusal(usage, answer.status());
  }
  return answer;
}

absl::Status Dispatcher::CheckRoom(const Tenant& tenant, const std::string& request_id) {
  const absl::Status status = backend_.CheckRoom();
  if (!status.ok()) RecordRefusal(BeginUsage(tenant, request_id), status);
  return status;
}

UsageRecord Dispatcher::BeginUsage(const Tenant& tenant, const std::string& request_id) const {
  UsageRecord usage;
  usage.arrival = absl::Now();
  // An id that was refused may hold anything; it does not belong into a log.
  usage.request_id = ValidateRequestId(request_id).ok() ? request_id : "refused";
  usage.tenant = tenant.name;
  usage.model = model_.name;
  return usage;
}

void Dispatcher::RecordRefusal(UsageRecord usage, const absl::Status& status) {
  metrics_.RequestEnded("Generate", status.code());
  tenant_metrics_.Of(usage.tenant).Ended(status);
  LogInfo(absl::StrCat("request id=", usage.request_id, " tenant=", usage.tenant,
                       " method=Generate code=", absl::StatusCodeToString(status.code())));
  usage.end = absl::Now();
  usage.code = status.code();
  usage.limit = LimitOf(status).value_or("");
  if (usage_log_ != nullptr) usage_log_->Write(usage);
}

absl::StatusOr<std::shared_ptr<AnswerHandle>> Dispatcher::Start(const Caller& caller,
                                                                const v1::GenerateRequest& request,
                                                                const std::string& request_id, absl::Time deadline,
                                                                const UsageRecord& usage,
                                                                const std::shared_ptr<RequestTrace>& trace,
                                                                std::shared_ptr<AnswerSink> sink) {
  RETURN_IF_ERROR(ValidateGenerate(request, model_.name, model_.vocab));
  RETURN_IF_ERROR(CheckAllowed(*caller.tenant, model_.name));
  // Before the work of tokenising: under overload most requests end here.
  RETURN_IF_ERROR(backend_.CheckRoom());
  const absl::Time begin = absl::Now();
  ASSIGN_OR_RETURN(Prompt prompt, MakePrompt(model_, request));
  const std::vector<int32_t>& prompt_ids = prompt.ids;
  if (trace != nullptr) trace->Tokenised(begin, static_cast<int64_t>(prompt_ids.size()));
  RETURN_IF_ERROR(
      ValidatePromptLength(PromptField(request), static_cast<int64_t>(prompt_ids.size()), model_.context_max));
  AnswerPlan plan;
  ASSIGN_OR_RETURN(plan.decode, ToDecodeRequest(model_, *caller.tenant, request, request_id, prompt_ids));
  plan.answers = request.has_n() ? request.n() : 1;
  const int64_t together = int64_t{plan.answers} + caller.answers_beside;
  if (const int most = backend_.sequences_max(); most > 0 && together > most) {
    return absl::InvalidArgumentError(absl::StrCat("n: the request asks for ", together, " answers at once; all ",
                                                   "attention services together take ", most,
                                                   " (--max-running and --max-queued)"));
  }
  plan.echo = EchoText(model_, request, prompt_ids);
  plan.stops = StopsOf(request);
  plan.calls = prompt.calls;
  plan.call_beginning = std::move(prompt.call_beginning);
  plan.deadline = deadline;
  plan.usage = usage;
  plan.trace = trace;
  plan.tenant = &tenant_metrics_.Of(caller.tenant->name);
  ASSIGN_OR_RETURN(auto lease, limits_.Admit(caller.tenant, plan.answers, static_cast<int64_t>(prompt_ids.size())));
  plan.usage_log = usage_log_;
  if (!calls_.Enter()) return absl::UnavailableError("this gateway is stopping; try another one");
  metrics_.prompt_tokens->Add(static_cast<double>(prompt_ids.size()));
  plan.tenant->Entered(plan.answers, static_cast<int>(prompt_ids.size()));
  auto answer =
      std::make_shared<Answer>(model_, metrics_, calls_, backend_, std::move(plan), std::move(lease), std::move(sink));
  answer->Start();
  return answer;
}

absl::StatusOr<v1::TokenizeResponse> Dispatcher::Tokenize(const Tenant& tenant,
                                                          const v1::TokenizeRequest& request) {
  absl::Status valid = ValidateTokenize(request, model_.name);
  if (valid.ok()) valid = CheckAllowed(tenant, model_.name);
  const absl::StatusOr<std::vector<int32_t>> ids = valid.ok() ? PromptIds(model_, request) : valid;
  metrics_.RequestEnded("Tokenize", ids.status().code());
  RETURN_IF_ERROR(ids.status());
  v1::TokenizeResponse response;
  response.mutable_ids()->Add(ids->begin(), ids->end());
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> Dispatcher::Detokenize(const Tenant& tenant,
                                                              const v1::DetokenizeRequest& request) {
  absl::Status valid = ValidateDetokenize(request, model_.name, model_.vocab);
  if (valid.ok()) valid = CheckAllowed(tenant, model_.name);
  metrics_.RequestEnded("Detokenize", valid.code());
  RETURN_IF_ERROR(valid);
  v1::DetokenizeResponse response;
  response.set_text(TextOf(model_, request.ids()));
  return response;
}

v1::ListModelsResponse Dispatcher::ListModels(const Tenant& tenant) {
  metrics_.RequestEnded("ListModels", absl::StatusCode::kOk);
  v1::ListModelsResponse response;
  if (!IsAllowed(tenant, model_.name)) return response;
  v1::ModelInfo* model = response.add_models();
  model->set_id(model_.name);
  model->set_family(model_.family);
  model->set_context_tokens_max(model_.context_max);
  model->set_vocab_size(model_.vocab);
  return response;
}

}  // namespace conclave
