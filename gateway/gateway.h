// The gateway as a process: options, and the life from start to a graceful end.
#ifndef CONCLAVE_GATEWAY_GATEWAY_H_
#define CONCLAVE_GATEWAY_GATEWAY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gateway/http/http_options.h"
#include "moe/checkpoint/model_dir.h"
#include "moe/daemon/daemon.h"
#include "moe/daemon/flags.h"
#include "moe/daemon/tls.h"
#include "moe/tracing/tracer.h"

namespace conclave {

// The command line, checked.
struct GatewayOptions {
  DaemonOptions daemon;
  HttpOptions http;
  std::string model;              // a directory or org/name[@revision]
  std::string served_model_name;  // empty: the model's own name
  bool generation_defaults = true;
  std::string tool_call_parser = "auto";
  std::vector<std::string> routers;  // host:port each, or where to find them
  absl::Duration discovery_interval = absl::Seconds(2);
  TlsClientOptions router_tls;
  std::string api_keys;   // a tenant file; empty: everyone is let in
  int gateways = 1;       // that serve the same tenants: each grants its share of their limits
  std::string usage_log;  // a file; empty: none
  int64_t usage_log_bytes_max = 64 << 20;
  absl::Duration router_wait = absl::Minutes(30);
  absl::Duration resume_wait = absl::Seconds(60);
  TracingOptions tracing;
  HubEnvironment hub;  // read by main

  GatewayOptions() { daemon.name = "gateway"; }
  void AddTo(Flags& flags);
  // INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
};

// Listens, loads the tokenizer, waits for the attention service, says ready, serves until SIGTERM, finishes what runs.
// FAILED_PRECONDITION: the attention service serves another model. Must be called before other threads start.
absl::Status RunGateway(const GatewayOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_GATEWAY_H_
