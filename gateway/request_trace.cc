#include "gateway/request_trace.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace conclave {
namespace {

void SetSampling(const v1::SamplingOptions& sampling, Span& span) {
  if (sampling.has_temperature()) span.Set("gen_ai.request.temperature", sampling.temperature());
  if (sampling.has_top_p()) span.Set("gen_ai.request.top_p", sampling.top_p());
  if (sampling.has_top_k()) span.Set("gen_ai.request.top_k", static_cast<double>(sampling.top_k()));
  if (sampling.has_frequency_penalty()) {
    span.Set("gen_ai.request.frequency_penalty", sampling.frequency_penalty());
  }
  if (sampling.has_presence_penalty()) span.Set("gen_ai.request.presence_penalty", sampling.presence_penalty());
}

}  // namespace

std::shared_ptr<RequestTrace> RequestTrace::Begin(Tracer* tracer, const Caller& caller,
                                                  const v1::GenerateRequest& request, const std::string& request_id,
                                                  const std::string& model, absl::Time arrival) {
  if (tracer == nullptr || !tracer->enabled()) return nullptr;
  const char* operation = request.has_chat() ? "chat" : "text_completion";
  Span span = tracer->Start(absl::StrCat(operation, " ", model), SpanKind::kInternal, caller.trace, arrival);
  span.Set("gen_ai.operation.name", operation);
  span.Set("gen_ai.provider.name", "conclave");
  span.Set("gen_ai.request.model", model);
  span.Set("gen_ai.response.id", request_id);
  span.Set("conclave.tenant", caller.tenant->name);
  if (request.has_max_tokens()) span.Set("gen_ai.request.max_tokens", request.max_tokens());
  if (request.has_n() && request.n() != 1) span.Set("gen_ai.request.choice.count", request.n());
  SetSampling(request.sampling(), span);
  return std::shared_ptr<RequestTrace>(new RequestTrace(*tracer, std::move(span)));
}

void RequestTrace::Tokenised(absl::Time begin, int64_t tokens) {
  Span span = tracer_.Start("tokenise", SpanKind::kInternal, span_.context, begin);
  span.Set("gen_ai.usage.input_tokens", tokens);
  tracer_.End(std::move(span), absl::Now());
}

void RequestTrace::End(const absl::Status& status, const v1::Usage& usage, std::vector<std::string> finish_reasons) {
  span_.SetStatus(status);
  span_.Set("gen_ai.usage.input_tokens", usage.prompt_tokens());
  span_.Set("gen_ai.usage.output_tokens", usage.completion_tokens());
  span_.Set("conclave.cached_tokens", usage.cached_tokens());
  if (first_token_ != absl::InfinitePast()) {
    span_.Set("conclave.time_to_first_token_seconds", absl::ToDoubleSeconds(first_token_ - span_.start));
  }
  const bool finished = std::all_of(finish_reasons.begin(), finish_reasons.end(),
                                    [](const std::string& reason) { return !reason.empty(); });
  if (finished && !finish_reasons.empty()) span_.Set("gen_ai.response.finish_reasons", std::move(finish_reasons));
  tracer_.End(std::move(span_), absl::Now());
}

}  // namespace conclave
