// The gRPC front: conclave.v1.InferenceService over the dispatcher.
#ifndef CONCLAVE_GATEWAY_INFERENCE_SERVICE_H_
#define CONCLAVE_GATEWAY_INFERENCE_SERVICE_H_

#include <memory>

#include "absl/time/time.h"
#include "gateway/caller.h"
#include "gateway/dispatcher.h"

namespace grpc {
class Service;
}

namespace conclave {

// Thread-safe. Calls never hold a thread while they wait.
class InferenceGrpcService {
 public:
  static std::unique_ptr<InferenceGrpcService> Create();
  virtual ~InferenceGrpcService() = default;

  // To be registered with a server. Owned by this object, which must outlive the server.
  virtual grpc::Service* service() = 0;
  // From now on calls go to `dispatcher`, where `authenticator` knows the caller by the metadata "authorization". Both
  // must outlive the server. Until then calls are refused with UNAVAILABLE. Called once.
  virtual void SetDispatcher(Dispatcher* dispatcher, const Authenticator* authenticator) = 0;
  // Returns when the last stream has been written and has gone, or at `deadline`; new ones are refused. To be called
  // after Dispatcher::Drain.
  virtual void Drain(absl::Time deadline) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_INFERENCE_SERVICE_H_
