#include "gateway/http/http_options.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/listen_address.h"

namespace conclave {
namespace {

absl::Status CheckRange(absl::string_view flag, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": is ", value, "; it must be from ", min, " to ", max));
}

}  // namespace

void HttpOptions::AddTo(Flags& flags) {
  flags.Add("http-address", &address, "host:port of the HTTP server; port 0 picks a free one; empty: none");
  flags.Add("http-tls-cert", &tls_cert, "PEM file of the certificate and its chain: HTTPS in place of HTTP");
  flags.Add("http-tls-key", &tls_key, "PEM file of the certificate's private key");
  flags.Add("http-tls-client-ca", &tls_client_ca, "PEM file of an authority: clients must show a certificate of it");
  flags.Add("http-io-threads", &io_threads, "threads that read and write the sockets of HTTP");
  flags.Add("http-workers", &workers, "threads that read JSON and tokenise for HTTP");
  flags.Add("http-connections-max", &connections_max, "open HTTP connections; more are refused with 503");
  flags.AddBytes("http-header-bytes-max", &header_bytes_max, "request line and headers; more: 431");
  flags.Add("http-headers-max", &headers_max, "number of headers of a request; more: 431");
  flags.AddBytes("http-body-bytes-max", &body_bytes_max, "body of a request; more: 413");
  flags.AddBytes("http-buffered-bytes-max", &buffered_bytes_max,
                 "bodies of all connections together; where they are full, 503");
  flags.AddBytes("http-output-bytes-max", &output_bytes_max,
                 "part of a streamed answer that the client has not read; more: the answer is cancelled");
  flags.Add("http-header-timeout", &header_timeout, "time to send the headers of a request; more: 408");
  flags.Add("http-body-timeout", &body_timeout, "time to send the body of a request; more: 408");
  flags.Add("http-idle-timeout", &idle_timeout, "time that a connection may stay open between two requests");
  flags.Add("http-write-timeout", &write_timeout, "time without a byte taken by the client before it counts as gone");
  flags.Add("http-ping-interval", &ping_interval, "time between comments in a stream that has nothing else to say");
  flags.Add("http-request-timeout", &request_timeout, "time that an answer may take; more: 504");
  flags.Add("http-prompts-max", &prompts_max, "prompts of one request to /v1/completions; more: 400");
  flags.Add("reasoning-content", &reasoning_content,
            "give what the model writes in <think> … </think> as reasoning_content, apart from content");
}

absl::Status HttpOptions::Validate() const {
  if (!address.empty()) {
    const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
    if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat("--http-address: ", parsed.status().message()));
  }
  if (tls_cert.empty() != tls_key.empty()) {
    return absl::InvalidArgumentError("--http-tls-cert: needs --http-tls-key beside it, and the other way round");
  }
  if (!tls_client_ca.empty() && tls_cert.empty()) {
    return absl::InvalidArgumentError("--http-tls-client-ca: needs --http-tls-cert and --http-tls-key");
  }
  RETURN_IF_ERROR(CheckRange("http-io-threads", io_threads, 1, 256));
  RETURN_IF_ERROR(CheckRange("http-workers", workers, 1, 256));
  RETURN_IF_ERROR(CheckRange("http-connections-max", connections_max, 1, 1'000'000));
  RETURN_IF_ERROR(CheckRange("http-header-bytes-max", header_bytes_max, 256, 16 << 20));
  RETURN_IF_ERROR(CheckRange("http-headers-max", headers_max, 1, 10'000));
  RETURN_IF_ERROR(CheckRange("http-body-bytes-max", body_bytes_max, 1, int64_t{1} << 30));
  RETURN_IF_ERROR(CheckRange("http-buffered-bytes-max", buffered_bytes_max, body_bytes_max, int64_t{1} << 50));
  RETURN_IF_ERROR(CheckRange("http-output-bytes-max", output_bytes_max, 16 << 10, int64_t{1} << 30));
  RETURN_IF_ERROR(CheckRange("http-prompts-max", prompts_max, 1, 10'000));
  for (const auto& [flag, time] : {std::pair("http-header-timeout", header_timeout),
                                   {"http-body-timeout", body_timeout},
                                   {"http-idle-timeout", idle_timeout},
                                   {"http-write-timeout", write_timeout},
                                   {"http-ping-interval", ping_interval},
                                   {"http-request-timeout", request_timeout}}) {
    if (time < absl::Milliseconds(1) || time > absl::Hours(24 * 365)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, ": is ", absl::FormatDuration(time), "; it must be from 1ms to a year"));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
