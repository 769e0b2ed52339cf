// What a gateway tells Prometheus.
#ifndef CONCLAVE_GATEWAY_GATEWAY_METRICS_H_
#define CONCLAVE_GATEWAY_GATEWAY_METRICS_H_

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "moe/daemon/open_calls.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// Thread-safe. The handles live as long as the Metrics, which must outlive this object, as must `running`.
class GatewayMetrics {
 public:
  GatewayMetrics(Metrics& metrics, const OpenCalls& running);

  // `method` is one of Generate, Tokenize, Detokenize and ListModels.
  void RequestEnded(absl::string_view method, absl::StatusCode code);

  Histogram* const time_to_first_token;
  Histogram* const inter_token_latency;
  Histogram* const request_duration;
  Counter* const prompt_tokens;
  Counter* const generated_tokens;

 private:
  std::map<std::pair<std::string, absl::StatusCode>, Counter*> requests_;  // complete, so that it never changes
  std::unique_ptr<RefreshHook> hook_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_GATEWAY_METRICS_H_
