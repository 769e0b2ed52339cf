// Why a sequence ended well.
#ifndef CONCLAVE_ROUTER_SERVICE_FINISH_REASON_H_
#define CONCLAVE_ROUTER_SERVICE_FINISH_REASON_H_

namespace conclave {

// kStop: an end-of-sequence id or a stop id. kLength: max_tokens or the context's end. kNone: it goes on.
enum class FinishReason { kNone, kStop, kLength };

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_FINISH_REASON_H_
