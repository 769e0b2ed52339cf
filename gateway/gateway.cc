#include "gateway/gateway.h"

#include <algorithm>
#include <memory>

#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "conclave/v1/control.pb.h"
#include "gateway/caller.h"
#include "gateway/cluster/cluster_map.h"
#include "gateway/cluster/cluster_snapshot.h"
#include "gateway/dispatcher.h"
#include "gateway/http/api_handler.h"
#include "gateway/http/server.h"
#include "gateway/inference_service.h"
#include "gateway/routers/router_pool.h"
#include "gateway/served_model.h"
#include "gateway/tenants/key_authenticator.h"
#include "gateway/tenants/usage_log.h"
#include "gateway/tools/tool_support.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/model_name.h"
#include "moe/daemon/peer_list.h"
#include "moe/daemon/tracing_flags.h"
#include "moe/metrics/metrics.h"

namespace conclave {
namespace {

constexpr absl::Duration kKeyFilePoll = absl::Seconds(1);

absl::StatusOr<std::unique_ptr<Authenticator>> CreateAuthenticator(const GatewayOptions& options) {
  if (options.api_keys.empty()) return NewOpenAuthenticator();
  absl::StatusOr<std::unique_ptr<KeyAuthenticator>> keys = KeyAuthenticator::Create(options.api_keys, kKeyFilePoll);
  if (keys.ok()) return *std::move(keys);
  return absl::Status(keys.status().code(), absl::StrCat("--api-keys: ", keys.status().message()));
}

absl::StatusOr<std::unique_ptr<UsageLog>> OpenUsageLog(const GatewayOptions& options) {
  if (options.usage_log.empty()) return nullptr;
  absl::StatusOr<std::unique_ptr<UsageLog>> log = UsageLog::Open(options.usage_log, options.usage_log_bytes_max);
  if (log.ok()) return log;
  return absl::Status(log.status().code(), absl::StrCat("--usage-log: ", log.status().message()));
}

absl::StatusOr<std::unique_ptr<ServedModel>> LoadModel(const GatewayOptions& options) {
  ASSIGN_OR_RETURN(const std::string directory, ResolveModelDir(options.model, options.hub));
  const std::string& named = options.served_model_name;
  ASSIGN_OR_RETURN(auto model, LoadServedModel(directory, named.empty() ? ModelName(options.model, directory) : named,
                                               options.generation_defaults, options.tool_call_parser));
  LogInfo(absl::StrCat("model ", model->name, " (", model->family, "), chat ",
                       model->chat_template != nullptr ? "ready" : model->chat_status.message(),
                       ", calls of functions ", model->tools.format != nullptr ? model->tools.format->name : "none"));
  return model;
}

// A gateway knows the vocabulary from its own files; a router with another model would get nonsense.
absl::Status CheckSameModel(const v1::GetStatusResponse& status, const GatewayOptions& options, ServedModel& model) {
  if (status.model().family() != model.family || status.model().vocab_size() != model.vocab) {
    return absl::FailedPreconditionError(absl::StrCat("the attention service serves ", status.model_id(), " (",
                                                      status.model().family(), ", ", status.model().vocab_size(),
                                                      " ids), but --model ", options.model, " is ", model.family,
                                                      " with ", model.vocab, " ids: give both the same model"));
  }
  model.context_max = std::min(model.context_max, status.model().context_tokens_max());
  return absl::OkStatus();
}

}  // namespace

void GatewayOptions::AddTo(Flags& flags) {
  flags.Add("model", &model,
            "model directory, or org/name[@revision] in the local Hugging Face cache; no weights are read");
  flags.Add("served-model-name", &served_model_name, "what clients call the model; empty: the directory's name");
  flags.Add("generation-defaults", &generation_defaults,
            "take defaults of requests (temperature, top_p, …) from the model's generation_config.json");
  flags.Add("tool-call-parser", &tool_call_parser,
            "form in which the model writes calls of functions: auto (the one in its chat template), none, "
            "deepseek_v3, deepseek_v31, kimi_k2 or hermes");
  flags.Add("router", &routers,
            "host:port of an attention service, or dns:///host:port or file:///path for all that are there, now and "
            "later; several share the work and stand in for each other");
  flags.Add("discovery-interval", &discovery_interval, "how often dns:/// and file:/// are looked up");
  flags.Add("api-keys", &api_keys,
            "file of tenants with their keys and limits, read again when it changes; empty: no key is asked for");
  flags.Add("gateways", &gateways, "gateways that serve the same tenants: each grants one share of so many of a limit");
  flags.Add("usage-log", &usage_log, "file that gets one JSON object a request; opened anew on SIGHUP; empty: none");
  flags.AddBytes("usage-log-max", &usage_log_bytes_max, "size at which the usage log becomes FILE.1; 0: any size");
  flags.Add("router-wait", &router_wait, "how long the first attention service may take to load");
  flags.Add("resume-wait", &resume_wait,
            "how long an answer that has begun waits for an attention service that can go on with it");
  router_tls.AddTo(flags);
  http.AddTo(flags);
  AddTracingFlags(flags, tracing);
  daemon.AddTo(flags);
}

absl::Status GatewayOptions::Validate() const {
  if (model.empty()) return absl::InvalidArgumentError("--model: missing; give a model directory");
  RETURN_IF_ERROR(ValidateToolCallParser(tool_call_parser));
  if (routers.empty()) return absl::InvalidArgumentError("--router: missing; give host:port of the attention service");
  if (const absl::Status valid = CheckPeers(routers); !valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--router: ", valid.message()));
  }
  if (discovery_interval <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("--discovery-interval: must be positive");
  }
  if (gateways < 1 || gateways > 10'000) {
    return absl::InvalidArgumentError(absl::StrCat("--gateways: is ", gateways, "; it must be from 1 to 10000"));
  }
  if (!http.address.empty()) {
    const bool http_is_open = !http.tls_cert.empty() || daemon.tls.allow_insecure;
    RETURN_IF_ERROR(CheckPlaintextAddress("http-address", http.address, http_is_open));
  }
  RETURN_IF_ERROR(tracing.Validate());
  return http.Validate();
}

absl::Status RunGateway(const GatewayOptions& options) {
  RETURN_IF_ERROR(options.Validate());
  // What calls use outlives the server, and exists before it, though still empty: the ports open first.
  const auto metrics = Metrics::Create();
  std::unique_ptr<Tracer> tracer;
  std::unique_ptr<ServedModel> model;
  std::unique_ptr<Authenticator> authenticator;
  std::unique_ptr<UsageLog> usage_log;
  std::unique_ptr<RouterPool> routers;
  std::unique_ptr<Dispatcher> dispatcher;
  std::unique_ptr<ClusterMap> cluster;
  const auto service = InferenceGrpcService::Create();
  const auto api = ApiHandler::Create(options.http, *metrics);
  std::unique_ptr<HttpServer> http;
  DaemonOptions daemon_options = options.daemon;
  if (!options.http.address.empty()) {
    ASSIGN_OR_RETURN(http, HttpServer::Listen(options.http, *api, metrics.get()));
    daemon_options.http_address = http->address();
  }
  ASSIGN_OR_RETURN(const auto daemon, Daemon::Create(daemon_options, {service->service()}, *metrics));
  // Only now: signals are to reach no other thread than the daemon's.
  if (http != nullptr) http->Start();

  tracer = Tracer::Create(options.tracing, "conclave-gateway", options.daemon.name, *metrics);
  ASSIGN_OR_RETURN(authenticator, CreateAuthenticator(options));
  ASSIGN_OR_RETURN(usage_log, OpenUsageLog(options));
  ASSIGN_OR_RETURN(model, LoadModel(options));
  RouterPoolOptions pool;
  pool.addresses = options.routers;
  pool.discovery_interval = options.discovery_interval;
  pool.resume_wait = options.resume_wait;
  pool.tracer = tracer->enabled() ? tracer.get() : nullptr;
  ASSIGN_OR_RETURN(pool.credentials, NewChannelCredentials(options.router_tls, metrics.get()));
  routers = RouterPool::Create(pool, *metrics);
  ASSIGN_OR_RETURN(const v1::GetStatusResponse status, routers->WaitUntilServing(absl::Now() + options.router_wait));
  RETURN_IF_ERROR(CheckSameModel(status, options, *model));
  LogInfo(absl::StrCat("attention services: ", absl::StrJoin(options.routers, ", "), ": ", status.model_id(), ", ",
                       status.numeric_profile()));

  dispatcher = std::make_unique<Dispatcher>(*model, *routers, *metrics, usage_log.get(), tracer.get(),
                                            options.gateways);
  service->SetDispatcher(dispatcher.get(), authenticator.get());
  daemon->OnHangup([&usage_log] {
    if (usage_log != nullptr) usage_log->Reopen();
  });
  cluster = ClusterMap::Create({model->name, model->experts_per_token},
                               ClusterProbe::Create([&routers] { return routers->addresses(); }, pool.credentials));
  api->SetServing(*dispatcher, *model, *authenticator, *cluster);
  // Ready while any attention service is.
  routers->WatchServing([&daemon, &api](bool serving) {
    daemon->SetServing(serving);
    api->SetReady(serving);
  });
  const absl::Cleanup unwatch = [&routers] { routers->WatchServing(nullptr); };
  daemon->SetServing(true);
  LogInfo(absl::StrCat("serving ", model->name, " at ", daemon->grpc_address(),
                       http == nullptr ? "" : absl::StrCat(", http ", http->address())));
  const absl::Status end = daemon->Run([&](absl::Time deadline) {
    api->SetStopping();
    routers->StopWaiting();
    dispatcher->Drain(deadline);
    service->Drain(deadline);
    if (http != nullptr) http->Drain(deadline);
  });
  // Whoever is still connected is cut off, which cancels answers that the dispatcher would wait for.
  http.reset();
  return end;
}

}  // namespace conclave
