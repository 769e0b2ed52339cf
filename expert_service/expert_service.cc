#include "expert_service/expert_service.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "expert_service/expert_shard.h"
#include "expert_service/row_memory.h"
#include "expert_service/shard_metrics.h"
#include "moe/base/clock.h"
#include "moe/base/limits.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_options.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/daemon/target_flags.h"
#include "moe/daemon/thread_flags.h"
#include "moe/daemon/tls.h"
#include "moe/kernels/accelerator/device_stream.h"
#include "moe/kernels/accelerator/pinned_memory.h"
#include "moe/kernels/kernels.h"
#include "moe/metrics/metrics.h"
#include "moe/model/device/device_memory.h"
#include "moe/model/numeric_profile.h"
#include "moe/transport/data_plane/socket_address.h"
#include "moe/transport/grpc/expert_codec.h"
#include "moe/transport/grpc/expert_grpc_service.h"
#include "moe/transport/nccl/nccl_api.h"
#include "moe/transport/nccl/nccl_expert_server.h"
#include "moe/transport/peer_gate.h"
#include "moe/transport/ucx/ucx_expert_server.h"
#include "moe/transport/ucx/ucx_worker.h"

namespace conclave {
namespace {

constexpr int kNcclRoutersMax = 256;  // connections that a shard takes
constexpr absl::Duration kProgressPause = absl::Milliseconds(500);

// Shows how far loading is: to scrapers, to routers that ask already, and in the log.
ExpertStore::Progress ShowProgress(Metrics& metrics, ExpertGrpcService& service) {
  return [gauge = LoadGauge(metrics), &service, last = absl::InfinitePast()](int64_t loaded, int64_t total,
                                                                             int64_t bytes) mutable {
    gauge(loaded, total, bytes);
    if (loaded < total && absl::Now() - last < kProgressPause) return;
    last = absl::Now();
    const std::string text = absl::StrCat("loading: ", loaded, " of ", total, " experts");
    service.SetNotReady(text);
    LogInfo(text);
  };
}

}  // namespace

void ExpertServiceOptions::AddTo(Flags& flags) {
  flags.Add("model", &model, "model directory, or org/name[@revision] in the local Hugging Face cache");
  flags.Add(
      "shard-index", &shard_index,
      "which shard this is, from 0; from --shard-count on, one more for all: it holds a slice of each one's experts");
  flags.Add("shard-count", &shard_count, "into how many shares the experts of every layer are cut");
  flags.Add("replicas", &replicas, "on how many shards each expert lives; the same on all shards");
  AddTargetFlags(flags, target);
  AddThreadFlags(flags, threads);
  flags.Add("ucx-address", &ucx_address,
            "numeric host:port where routers connect for activations over UCX, port 0 picks one; empty: gRPC alone");
  flags.Add("nccl-address", &nccl_address,
            "numeric host:port where routers on GPUs connect for activations over NCCL, port 0 picks one; empty: none");
  flags.Add("nccl-routers", &nccl_routers,
            "attention services that may connect over NCCL; --gpu-memory has room for the rows of so many");
  flags.Add("load", &load, "bring all weights into memory before saying ready");
  flags.AddBytes("expert-memory", &expert_bytes_max,
                 "stored bytes of the experts held, those taken over from dead shards included; 0: no limit");
  flags.Add("per-expert-metrics", &per_expert_metrics,
            "show the tokens of every expert of every layer to Prometheus, not of layers alone");
  daemon.AddTo(flags);
}

absl::Status ExpertServiceOptions::Validate() const {
  if (model.empty()) return absl::InvalidArgumentError("--model: missing; give a model directory");
  if (shard_count < 1 || shard_count > limits::kShardsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("--shard-count: ", shard_count, " is not in [1, ", limits::kShardsMax, "]"));
  }
  if (shard_index < 0 || shard_index >= limits::kShardsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("--shard-index: ", shard_index, " is not in [0, ", limits::kShardsMax, ")"));
  }
  if (replicas < 1 || replicas > shard_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("--replicas: ", replicas, " is not in [1, ", shard_count, "]: --shard-count is ", shard_count));
  }
  RETURN_IF_ERROR(target.Validate());
  RETURN_IF_ERROR(PlanThreads(threads).status());
  if (!ucx_address.empty()) {
    const absl::StatusOr<SocketAddress> address = SocketAddress::Parse(ucx_address);
    if (!address.ok()) return absl::InvalidArgumentError(absl::StrCat("--ucx-address: ", address.status().message()));
    RETURN_IF_ERROR(CheckPlaintextAddress("ucx-address", ucx_address, daemon.tls.allow_insecure));
  }
  if (!nccl_address.empty()) {
    const absl::StatusOr<SocketAddress> address = SocketAddress::Parse(nccl_address);
    if (!address.ok()) return absl::InvalidArgumentError(absl::StrCat("--nccl-address: ", address.status().message()));
    RETURN_IF_ERROR(CheckPlaintextAddress("nccl-address", nccl_address, daemon.tls.allow_insecure));
    if (target.device == "cpu") return absl::InvalidArgumentError("--nccl-address: NCCL needs --device cuda");
    if (nccl_routers < 1 || nccl_routers > kNcclRoutersMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("--nccl-routers: ", nccl_routers, " is not in [1, ", kNcclRoutersMax, "]"));
    }
  }
  return absl::OkStatus();
}

namespace {

// Null where none is asked for.
absl::StatusOr<std::unique_ptr<UcxExpertServer>> StartUcx(const ExpertServiceOptions& options, DeviceMemory* device,
                                                          PeerGate& gate) {
  if (options.ucx_address.empty()) return nullptr;
  UcxExpertServerOptions ucx;
  ucx.address = options.ucx_address;
  ucx.gate = &gate;
  if (device != nullptr) {
    ASSIGN_OR_RETURN(std::shared_ptr<DeviceStream> stream, device->accelerator().NewStream());
    ucx.memory = PinnedMemory(device->accelerator());
    ucx.device_memory = SharedDeviceMemory(device->accelerator());
    ucx.make_current = [stream] { stream->MakeCurrent(); };
    ucx.worker.device_memory = UcxDeviceMemory::kCuda;
  }
  return UcxExpertServer::Start(ucx);
}

// Null where none is asked for.
absl::StatusOr<std::unique_ptr<NcclExpertServer>> StartNccl(const ExpertServiceOptions& options,
                                                            Accelerator& accelerator, PeerGate& gate) {
  NcclExpertServerOptions nccl;
  ASSIGN_OR_RETURN(nccl.api, LoadNccl());
  nccl.new_stream = [&accelerator] { return accelerator.NewStream(); };
  nccl.gpu = accelerator.info().uuid;
  nccl.address = options.nccl_address;
  nccl.routers_max = options.nccl_routers;
  nccl.gate = &gate;
  return NcclExpertServer::Start(nccl);
}

}  // namespace

absl::Status RunExpertService(const ExpertServiceOptions& options) {
  RETURN_IF_ERROR(options.Validate());
  ASSIGN_OR_RETURN(const ThreadPlan threads, PlanAndKeepThreads(options.threads));
  if (!options.nccl_address.empty()) RETURN_IF_ERROR(LoadNccl().status());  // before there are threads
  DaemonOptions daemon_options = options.daemon;
  if (daemon_options.name.empty()) daemon_options.name = absl::StrCat("expert-", options.shard_index);
  daemon_options.message_bytes_max = kExpertMessageBytesMax;
  const std::unique_ptr<Metrics> metrics = Metrics::Create();
  PeerGate gate(Clock::Real(), metrics.get());
  const std::unique_ptr<ExpertGrpcService> service = ExpertGrpcService::Create(&gate);
  ASSIGN_OR_RETURN(const auto daemon, Daemon::Create(daemon_options, {service->service()}, *metrics));

  const absl::Time begin = absl::Now();
  ASSIGN_OR_RETURN(const std::string directory, ResolveModelDir(options.model, options.hub));
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(directory));
  ExpertShardOptions shard_options;
  shard_options.name = daemon_options.name;
  shard_options.shard_index = options.shard_index;
  shard_options.shard_count = options.shard_count;
  shard_options.replicas = options.replicas;
  ASSIGN_OR_RETURN(const auto target, ComputeTarget::Create(options.target));
  shard_options.kernels = &target->kernels();
  shard_options.device = target->memory();
  // The health checks of routers and Kubernetes see it; calls go on to be refused, and their rows to go elsewhere.
  shard_options.on_device_lost = [&daemon](const absl::Status& status) {
    LogError(absl::StrCat("not ready any more: ", status.message()));
    daemon->SetServing(false);
  };
  shard_options.threads = threads;
  shard_options.expert_bytes_max = options.expert_bytes_max;
  shard_options.load = options.load;
  shard_options.progress = ShowProgress(*metrics, *service);
  shard_options.metrics = metrics.get();
  shard_options.per_expert_metrics = options.per_expert_metrics;
  if (!options.nccl_address.empty()) {
    RETURN_IF_ERROR(ReserveNcclPairs(checkpoint->spec(), RowDType(target->kernels().compute), options.nccl_routers,
                                     *target->memory()));
  }
  if (!options.ucx_address.empty() && target->memory() != nullptr && UcxKnowsCuda()) {
    RETURN_IF_ERROR(ReserveUcxRows(checkpoint->spec(), RowDType(target->kernels().compute), *target->memory()));
  }
  ASSIGN_OR_RETURN(const auto shard, ExpertShard::Create(shard_options, *checkpoint));
  const ShardDescription description = shard->Describe();
  LogInfo(absl::StrCat("ready: ", shard->store().experts(), " experts, ", description.expert_bytes >> 20, " MiB, ",
                       description.numeric_profile, ", in ", absl::FormatDuration(absl::Now() - begin)));
  // It goes before the shard that it calls.
  ASSIGN_OR_RETURN(const auto ucx, StartUcx(options, target->memory(), gate));
  if (ucx != nullptr) {
    ucx->SetHandler(shard.get());
    service->SetDataPlane(ucx.get());
    LogInfo(absl::StrCat("activations over ucx at ", ucx->address()));
  }
  std::unique_ptr<NcclExpertServer> nccl;
  if (!options.nccl_address.empty()) {
    ASSIGN_OR_RETURN(nccl, StartNccl(options, target->memory()->accelerator(), gate));
    nccl->SetHandler(shard.get());
    service->SetNcclDataPlane(nccl.get());
    LogInfo(absl::StrCat("activations over nccl at ", nccl->address()));
  }
  service->SetHandler(shard.get());
  daemon->SetServing(true);
  // The shard must outlive the server's threads, which Run has ended when it returns.
  return daemon->Run([&](absl::Time deadline) {
    service->Drain(deadline);
    if (ucx != nullptr) ucx->Drain(deadline);
    if (nccl != nullptr) nccl->Drain(deadline);
  });
}

}  // namespace conclave
