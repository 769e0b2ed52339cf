#include "gateway/gateway_metrics.h"

namespace conclave {

GatewayMetrics::GatewayMetrics(Metrics& metrics, const OpenCalls& running)
    : time_to_first_token(metrics.AddHistogram("conclave_gateway_time_to_first_token_seconds",
                                               "Time from the arrival of a request to its first token.", {},
                                               LatencyBuckets())),
      inter_token_latency(metrics.AddHistogram("conclave_gateway_inter_token_latency_seconds",
                                               "Time between two tokens of one answer.", {}, LatencyBuckets())),
      request_duration(metrics.AddHistogram("conclave_gateway_request_duration_seconds",
                                            "Time from the arrival of a request to the end of its answer.", {},
                                            LatencyBuckets())),
      prompt_tokens(metrics.AddCounter("conclave_gateway_prompt_tokens_total", "Tokens of prompts taken.", {})),
      generated_tokens(metrics.AddCounter("conclave_gateway_generated_tokens_total", "Tokens of answers.", {})) {
  for (const char* method : {"Generate", "Tokenize", "Detokenize", "ListModels"}) {
    for (int code = 0; code <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++code) {
      const auto status_code = static_cast<absl::StatusCode>(code);
      requests_[{method, status_code}] =
          metrics.AddCounter("conclave_gateway_requests_total", "Requests by method and outcome, a gRPC status code.",
                             {{"method", method}, {"code", absl::StatusCodeToString(status_code)}});
    }
  }
  Gauge* requests_running = metrics.AddGauge("conclave_gateway_requests_running", "Answers under way.", {});
  hook_ = metrics.OnScrape([requests_running, &running] { requests_running->Set(running.open()); });
}

void GatewayMetrics::RequestEnded(absl::string_view method, absl::StatusCode code) {
  const auto found = requests_.find({std::string(method), code});
  if (found != requests_.end()) found->second->Add(1);
}

}  // namespace conclave
