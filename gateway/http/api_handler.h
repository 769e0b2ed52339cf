// What the HTTP port answers: OpenAI's endpoints over the dispatcher, probes, SageMaker's container contract, and the
// console with the map of the cluster.
#ifndef CONCLAVE_GATEWAY_HTTP_API_HANDLER_H_
#define CONCLAVE_GATEWAY_HTTP_API_HANDLER_H_

#include <memory>

#include "gateway/caller.h"
#include "gateway/cluster/cluster_map.h"
#include "gateway/dispatcher.h"
#include "gateway/http/exchange.h"
#include "gateway/http/http_options.h"
#include "gateway/served_model.h"
#include "moe/metrics/metrics.h"

namespace conclave {

// Thread-safe.
class ApiHandler : public HttpHandler {
 public:
  // `metrics` must outlive it. Writes one line to the access log for each request.
  static std::unique_ptr<ApiHandler> Create(const HttpOptions& options, Metrics& metrics);
  // From now on requests are answered by these, which must outlive the server; until then they get 503. Called once.
  virtual void SetServing(Dispatcher& dispatcher, const ServedModel& model, const Authenticator& authenticator,
                          ClusterMap& cluster) = 0;
  // Whether /ready and /ping say that an answer can be had now; after SetServing they do.
  virtual void SetReady(bool ready) = 0;
  // From now on /ready and /ping say 503; requests are answered as long as the dispatcher takes them.
  virtual void SetStopping() = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_API_HANDLER_H_
