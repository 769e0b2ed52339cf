// What decodes for a gateway, as the dispatcher sees it: one attention service or many.
#ifndef CONCLAVE_GATEWAY_ROUTERS_DECODE_BACKEND_H_
#define CONCLAVE_GATEWAY_ROUTERS_DECODE_BACKEND_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "conclave/v1/control.pb.h"
#include "gateway/router_client.h"
#include "moe/tracing/trace_context.h"

namespace conclave {

// Thread-safe.
class DecodeBackend {
 public:
  virtual ~DecodeBackend() = default;
  // RESOURCE_EXHAUSTED (gateway/refusal.h) where no service takes another sequence at the moment, as far as is known
  // here: whoever asks first spares itself the work on a request that would be refused.
  virtual absl::Status CheckRoom() = 0;
  // How many sequences run or wait at once where all services are full; 0: not known.
  virtual int sequences_max() const = 0;
  // Where sequences with this request's prompt belong, for Decode: answers to one prompt go to one place, so that they
  // find each other's prefix there.
  virtual int Place(const v1::DecodeRequest& request) = 0;
  // Starts a sequence, at `place` where that can take it. `listener` is kept until its OnEnd has returned; it may be
  // called before Decode has returned. `trace`: the span that asks; not valid: none.
  virtual std::shared_ptr<DecodeCall> Decode(int place, v1::DecodeRequest request, absl::Time deadline,
                                             const TraceContext& trace, std::shared_ptr<DecodeListener> listener) = 0;
  // Who computes: the model's fingerprint and the numeric profile.
  virtual std::string fingerprint() const = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ROUTERS_DECODE_BACKEND_H_
