#include "moe/daemon/daemon.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "grpcpp/impl/server_initializer.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "moe/base/log.h"
#include "moe/base/protocol_version.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/address_file.h"
#include "moe/daemon/library_logs.h"
#include "moe/daemon/listen_address.h"
#include "moe/daemon/stop_signals.h"

namespace conclave {
namespace {

// Limits of a server that strangers may reach: metadata of a call, calls at once on one connection.
constexpr int kMetadataBytesMax = 16 << 10;
constexpr int kConnectionStreamsMax = 8192;
// How long calls that nobody drains (health watches, reflection) hold up the end.
constexpr absl::Duration kShutdownGrace = absl::Milliseconds(200);

// Takes down the names of the registered services: gRPC's health service wants to be told each.
class ServiceNames final : public grpc::ServerBuilderOption {
 public:
  explicit ServiceNames(std::vector<std::string>* names) : names_(names) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->push_back(std::make_unique<Plugin>(names_));
  }

 private:
  class Plugin final : public grpc::ServerBuilderPlugin {
   public:
    explicit Plugin(std::vector<std::string>* names) : names_(names) {}
    std::string name() override { return "service_names"; }
    void InitServer(grpc::ServerInitializer*) override {}
    void Finish(grpc::ServerInitializer* initializer) override { *names_ = *initializer->GetServiceList(); }
    void ChangeArguments(const std::string&, void*) override {}

   private:
    std::vector<std::string>* names_;
  };
  std::vector<std::string>* names_;
};

absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view text) {
  if (text == "debug") return LogLevel::kDebug;
  if (text == "info") return LogLevel::kInfo;
  if (text == "warning") return LogLevel::kWarning;
  if (text == "error") return LogLevel::kError;
  return absl::InvalidArgumentError(
      absl::StrCat("--log-level: expected debug, info, warning or error, got '", text.substr(0, 60), "'"));
}

// The name stands in log lines and in JSON without escapes.
absl::Status CheckName(absl::string_view name) {
  for (const char c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && !absl::StrContains("._-", c)) {
      return absl::InvalidArgumentError("--name: expected letters, digits, dots, dashes and underscores only");
    }
  }
  return name.empty() || name.size() > 100 ? absl::InvalidArgumentError("--name: expected 1 to 100 characters")
                                           : absl::OkStatus();
}

// The ports' addresses, and who may reach them in plaintext.
absl::Status CheckAddresses(const DaemonOptions& options) {
  const bool grpc_is_open = options.tls.enabled() || options.tls.allow_insecure;
  RETURN_IF_ERROR(CheckPlaintextAddress("grpc-address", options.grpc_address, grpc_is_open));
  if (!options.health_address.empty()) {
    // Whoever reaches it learns whether this process serves, and nothing else.
    RETURN_IF_ERROR(CheckPlaintextAddress("health-address", options.health_address, /*allow_insecure=*/true));
  }
  if (options.metrics_address.empty()) return absl::OkStatus();
  return CheckPlaintextAddress("metrics-address", options.metrics_address, options.tls.allow_insecure);
}

std::unique_ptr<grpc::Server> BuildServer(const DaemonOptions& options, const std::vector<grpc::Service*>& services,
                                          const std::shared_ptr<grpc::ServerCredentials>& credentials, int* port,
                                          std::vector<std::string>* names) {
  static std::once_flag plugins_once;  // Both are lists of the whole process.
  std::call_once(plugins_once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(options.message_bytes_max);
  builder.SetMaxSendMessageSize(options.message_bytes_max);
  // Two processes on one port would each get some of the calls; we want an error.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMetadataBytesMax);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kConnectionStreamsMax);
  // Pings find peers that vanished without closing their connection; peers may ping us as well.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.SetOption(std::make_unique<ServiceNames>(names));
  builder.AddListeningPort(options.grpc_address, credentials, port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  return builder.BuildAndStart();
}

// Health for who cannot speak TLS, such as the kubelet's probes. It tells no more than who is SERVING.
std::unique_ptr<grpc::Server> BuildHealthServer(const std::string& address, int* port) {
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(4 << 10);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMetadataBytesMax);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 64);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), port);
  return builder.BuildAndStart();
}

class DaemonImpl final : public Daemon {
 public:
  explicit DaemonImpl(const DaemonOptions& options)
      : options_(options), signals_([this](int signal) { OnSignal(signal); }) {}

  ~DaemonImpl() override {
    for (grpc::Server* server : Servers()) server->Shutdown(std::chrono::system_clock::now());
    RemoveAddressFile();
  }

  absl::Status Start(const std::vector<grpc::Service*>& services,
                     const std::shared_ptr<grpc::ServerCredentials>& credentials, Metrics& metrics) {
    int port = 0;
    credentials_ = credentials;
    server_ = BuildServer(options_, services, credentials, &port, &service_names_);
    if (server_ == nullptr || port == 0) return ExplainListenFailure(options_.grpc_address, "grpc-address");
    if (!options_.health_address.empty()) {
      int health_port = 0;
      health_server_ = BuildHealthServer(options_.health_address, &health_port);
      if (health_server_ == nullptr || health_port == 0) {
        return ExplainListenFailure(options_.health_address, "health-address");
      }
      health_address_ = JoinHostPort(ParseHostPort(options_.health_address)->host, health_port);
    }
    SetServing(false);
    grpc_address_ = JoinHostPort(ParseHostPort(options_.grpc_address)->host, port);
    if (!options_.metrics_address.empty()) {
      absl::StatusOr<std::string> exposed = metrics.Expose(options_.metrics_address);
      if (absl::IsUnimplemented(exposed.status())) {
        return absl::UnimplementedError(absl::StrCat("--metrics-address: ", std::string(exposed.status().message())));
      }
      if (!exposed.ok()) return ExplainListenFailure(options_.metrics_address, "metrics-address");
      metrics_address_ = *std::move(exposed);
    }
    if (!options_.address_file.empty()) {
      RETURN_IF_ERROR(WriteAddressFile(options_.address_file,
                                       {options_.name, static_cast<int>(getpid()), grpc_address_, metrics_address_,
                                        options_.http_address, health_address_}));
      absl::MutexLock lock(&mutex_);
      address_file_written_ = true;
    }
    LogInfo(absl::StrCat("listening: grpc ", grpc_address_, options_.tls.enabled() ? " (TLS)" : "",
                         metrics_address_.empty() ? "" : ", metrics ", metrics_address_,
                         health_address_.empty() ? "" : ", health ", health_address_, ", protocol ",
                         AnnouncedProtocolVersion()));
    return absl::OkStatus();
  }

  void SetServing(bool serving) override {
    absl::MutexLock lock(&mutex_);
    if (serving && stopping_) return;
    started_ = started_ || serving;
    for (grpc::Server* server : Servers()) {
      grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService();
      health->SetServingStatus("", serving);
      for (const std::string& name : service_names_) health->SetServingStatus(name, serving);
    }
  }

  std::string grpc_address() const override { return grpc_address_; }
  std::string metrics_address() const override { return metrics_address_; }
  std::string health_address() const override { return health_address_; }

  absl::Status Run(std::function<void(absl::Time deadline)> drain) override {
    {
      absl::MutexLock lock(&mutex_);
      started_ = true;
      mutex_.Await(absl::Condition(&stopping_));
    }
    LogInfo(absl::StrCat("stopping: finishing what runs, for at most ", absl::FormatDuration(options_.drain_timeout)));
    SetServing(false);
    const absl::Time deadline = absl::Now() + options_.drain_timeout;
    drain(deadline);
    const bool in_time = absl::Now() < deadline;
    for (grpc::Server* server : Servers()) server->Shutdown(absl::ToChronoTime(absl::Now() + kShutdownGrace));
    RemoveAddressFile();
    if (!in_time) return absl::DeadlineExceededError("requests were cut off: they did not end within --drain-timeout");
    LogInfo("stopped");
    return absl::OkStatus();
  }

  void RequestStop() override {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }

  void OnHangup(std::function<void()> action) override {
    absl::MutexLock lock(&mutex_);
    on_hangup_ = std::move(action);
  }

 private:
  std::vector<grpc::Server*> Servers() const {
    std::vector<grpc::Server*> servers;
    for (grpc::Server* server : {server_.get(), health_server_.get()}) {
      if (server != nullptr) servers.push_back(server);
    }
    return servers;
  }

  void OnSignal(int signal) {
    if (signal == SIGHUP) {
      absl::MutexLock lock(&mutex_);
      if (on_hangup_ != nullptr) on_hangup_();
      return;
    }
    bool at_once = false;
    int code = 0;
    {
      absl::MutexLock lock(&mutex_);
      ++signals_seen_;
      stopping_ = true;
      at_once = !started_ || signals_seen_ > 1;
      code = signals_seen_ > 1 ? 128 + signal : 0;
    }
    if (!at_once) return;
    LogInfo(code == 0 ? "stopped before serving" : "stopped at once by a second signal");
    RemoveAddressFile();
    // Destructors would wait for work that nobody wants any more.
    std::_Exit(code);
  }

  void RemoveAddressFile() {
    absl::MutexLock lock(&mutex_);
    if (address_file_written_) std::remove(options_.address_file.c_str());
    address_file_written_ = false;
  }

  const DaemonOptions options_;
  absl::Mutex mutex_;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;  // has served, or runs
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> on_hangup_ ABSL_GUARDED_BY(mutex_);
  int signals_seen_ ABSL_GUARDED_BY(mutex_) = 0;
  bool address_file_written_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::string> service_names_;
  std::string grpc_address_, metrics_address_, health_address_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;  // follow their files as long as they are held
  std::unique_ptr<grpc::Server> server_, health_server_;
  StopSignals signals_;  // last: its thread uses the others
};

}  // namespace

void DaemonOptions::AddTo(Flags& flags) {
  flags.Add("name", &name, "name of this process in logs and in the address file");
  flags.Add("grpc-address", &grpc_address, "host:port of the gRPC server; port 0 picks a free one");
  flags.Add("metrics-address", &metrics_address, "IP:port of Prometheus metrics; empty: none");
  flags.Add("health-address", &health_address,
            "host:port of a plaintext gRPC server for health alone, where probes speak no TLS; empty: none");
  flags.Add("address-file", &address_file, "file to write the addresses to, as JSON, once they are listened on");
  flags.Add("drain-timeout", &drain_timeout, "time that running requests get to finish after SIGTERM");
  flags.Add("log-level", &log_level, "debug, info, warning or error");
  flags.Add("log-format", &log_format, "text, or json: one object a line");
  tls.AddTo(flags);
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Create(const DaemonOptions& options,
                                                       const std::vector<grpc::Service*>& services, Metrics& metrics) {
  RETURN_IF_ERROR(CheckName(options.name));
  RETURN_IF_ERROR(CheckAddresses(options));
  ASSIGN_OR_RETURN(const LogLevel level, ParseLogLevel(options.log_level));
  if (options.log_format != "text" && options.log_format != "json") {
    return absl::InvalidArgumentError(
        absl::StrCat("--log-format: expected text or json, got '", options.log_format.substr(0, 60), "'"));
  }
  SetLogLevel(level);
  SetLogFormat(options.log_format == "json" ? LogFormat::kJson : LogFormat::kText);
  SetLogName(options.name);
  RouteLibraryLogs();
  // A peer that goes away while we write is an error of that write, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  auto daemon = std::make_unique<DaemonImpl>(options);
  // Only now, as gRPC starts threads for them: the signals have to be blocked before.
  ASSIGN_OR_RETURN(const auto credentials, NewServerCredentials(options.tls, &metrics));
  RETURN_IF_ERROR(daemon->Start(services, credentials, metrics));
  return daemon;
}

}  // namespace conclave
