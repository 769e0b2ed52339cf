// The baseline: one active message of UCX's there and one back, with the same settings as our transport and nothing
// around it: no deadline, no call table, no checks.
#ifndef CONCLAVE_MOE_TRANSPORT_BENCH_BARE_ECHO_H_
#define CONCLAVE_MOE_TRANSPORT_BENCH_BARE_ECHO_H_

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "moe/transport/ucx/ucx_worker.h"

namespace conclave {

// A thread that copies each message once and sends the copy back. It spins while messages come.
class BareEchoServer {
 public:
  explicit BareEchoServer(UcxLinks links);
  ~BareEchoServer();
  const std::string& address() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The other end. Used by one thread.
class BareEchoClient {
 public:
  BareEchoClient(UcxLinks links, const std::string& address);
  ~BareEchoClient();
  // Sends `bytes` from `data`, and returns when as many have come back: at `out`, or where it is null, somewhere in
  // UCX's memory.
  void RoundTrip(const void* data, int64_t bytes, void* out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_BENCH_BARE_ECHO_H_
