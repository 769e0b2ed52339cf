// Rows that a peer offers, on their way from its device's memory into ours. Both ends of the transport use it.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_UCX_FETCH_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_UCX_FETCH_H_

#include <ucp/api/ucp.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "moe/transport/ucx/ucx_worker.h"

namespace conclave {

// Used by its worker's thread. Used again and again; it stays where it is while moving().
class UcxFetch {
 public:
  ~UcxFetch();
  // Fetches the `bytes` bytes of `offer`, which is what UCX handed its callback for active messages, to `to` in device
  // memory; done, where it is not empty, is called in Progress, or at once where it fails at once. Also within that
  // callback, which then returns UCS_INPROGRESS. REQUIRES: !moving()
  void Start(UcxWorker& worker, void* offer, void* to, int64_t bytes, std::function<void()> done);
  // UCX still writes to `to`.
  bool moving() const { return moving_; }
  // How the last one ended. UNAVAILABLE: the peer is gone; INTERNAL.
  const absl::Status& status() const { return status_; }

 private:
  static void OnEnd(void* request, ucs_status_t status, size_t bytes, void* fetch);
  void End(ucs_status_t status, int64_t bytes);

  bool moving_ = false;
  int64_t bytes_ = 0;
  absl::Status status_;
  std::function<void()> done_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_FETCH_H_
