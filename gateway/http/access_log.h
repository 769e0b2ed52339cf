// What is kept of each HTTP request: one line of the log and a few metrics; never its prompt or answer.
#ifndef CONCLAVE_GATEWAY_HTTP_ACCESS_LOG_H_
#define CONCLAVE_GATEWAY_HTTP_ACCESS_LOG_H_

#include <map>
#include <string>

#include "gateway/http/exchange.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// Thread-safe.
class AccessLog {
 public:
  // `metrics` must outlive it.
  explicit AccessLog(Metrics& metrics);
  void Add(const ExchangeSummary& summary);

 private:
  std::map<int, Counter*> responses_;  // by status; complete, so that it never changes
  Counter* others_;
  Histogram* duration_;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_ACCESS_LOG_H_
