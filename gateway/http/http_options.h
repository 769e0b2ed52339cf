// What the HTTP port may be told: where it listens, and a limit on everything that a client can send or hold.
#ifndef CONCLAVE_GATEWAY_HTTP_HTTP_OPTIONS_H_
#define CONCLAVE_GATEWAY_HTTP_HTTP_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "moe/daemon/flags.h"

namespace conclave {

// Flags → these → Validate; immutable afterwards.
struct HttpOptions {
  std::string address = "127.0.0.1:0";  // host:port, port 0 picks a free one; empty: no HTTP
  // Files in PEM: both of the first two, or neither; the third asks clients for certificates of their own.
  std::string tls_cert, tls_key, tls_client_ca;
  int io_threads = 1;  // read and write sockets, and never wait
  int workers = 2;     // read JSON, render templates and tokenise
  int connections_max = 1024;
  int64_t header_bytes_max = 32 << 10;  // of a request's line and headers together
  int headers_max = 100;
  int64_t body_bytes_max = 32 << 20;
  int64_t buffered_bytes_max = int64_t{512} << 20;  // bodies of all connections together
  int64_t output_bytes_max = 1 << 20;               // of an answer that its client has not read yet
  absl::Duration header_timeout = absl::Seconds(10);
  absl::Duration body_timeout = absl::Seconds(60);
  absl::Duration idle_timeout = absl::Seconds(75);   // between two requests
  absl::Duration write_timeout = absl::Seconds(60);  // without any byte taken by the client
  absl::Duration ping_interval = absl::Seconds(15);  // of comments in a stream that has nothing else to say
  absl::Duration request_timeout = absl::Minutes(30);
  int prompts_max = 128;           // of one completions request
  bool reasoning_content = false;  // what stands in <think> … </think> becomes reasoning_content

  void AddTo(Flags& flags);
  // INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_HTTP_OPTIONS_H_
