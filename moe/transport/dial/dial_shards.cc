#include "moe/transport/dial/dial_shards.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "moe/base/log.h"
#include "moe/base/status_macros.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/transport/dial/preferred_transport.h"
#include "moe/transport/dial/staged_calls.h"
#include "moe/transport/grpc/grpc_data_plane_client.h"
#include "moe/transport/grpc/grpc_transport.h"
#include "moe/transport/nccl/nccl_api.h"
#include "moe/transport/nccl/nccl_transport.h"
#include "moe/transport/ucx/ucx_transport.h"

namespace conclave {
namespace {

// Where all shards are on this machine, UCX need not open a socket on any other device.
bool AllOnLoopback(const std::vector<std::string>& addresses) {
  return std::all_of(addresses.begin(), addresses.end(), [](const std::string& address) {
    return absl::StartsWith(address, "127.") || absl::StartsWith(address, "localhost:") ||
           absl::StartsWith(address, "[::1]:");
  });
}

std::unique_ptr<Transport> Grpc(const std::vector<std::string>& addresses, const DialOptions& options) {
  GrpcTransportOptions grpc;
  grpc.name = options.name;
  grpc.model_fingerprint = options.model_fingerprint;
  grpc.numeric_profile = options.numeric_profile;
  grpc.checksum = options.checksum;
  grpc.credentials = options.credentials;
  return NewGrpcTransport(addresses, grpc);
}

absl::StatusOr<std::unique_ptr<UcxTransport>> Ucx(const std::vector<std::string>& addresses,
                                                  const DialOptions& options) {
  UcxTransportOptions ucx;
  ucx.name = options.name;
  ucx.model_fingerprint = options.model_fingerprint;
  ucx.numeric_profile = options.numeric_profile;
  ucx.checksum = options.checksum;
  ucx.worker.loopback_only = AllOnLoopback(addresses);
  if (options.accelerator != nullptr) {
    ucx.new_stream = [accelerator = options.accelerator] { return accelerator->NewStream(); };
  }
  return NewUcxTransport(static_cast<int>(addresses.size()), NewGrpcDataPlaneClient(addresses, options.credentials),
                         ucx);
}

absl::StatusOr<std::unique_ptr<Transport>> Nccl(const std::vector<std::string>& addresses,
                                                const DialOptions& options) {
  if (options.accelerator == nullptr) {
    return absl::FailedPreconditionError("--transport nccl moves rows between GPUs: it needs --device cuda");
  }
  NcclTransportOptions nccl;
  ASSIGN_OR_RETURN(nccl.api, LoadNccl());
  nccl.new_stream = [accelerator = options.accelerator] { return accelerator->NewStream(); };
  nccl.gpu = options.accelerator->info().uuid;
  nccl.name = options.name;
  nccl.model_fingerprint = options.model_fingerprint;
  nccl.numeric_profile = options.numeric_profile;
  auto transport = NewNcclTransport(static_cast<int>(addresses.size()),
                                    NewGrpcDataPlaneClient(addresses, options.credentials), nccl);
  const absl::Time until = absl::Now() + options.nccl_wait;
  for (int i = 0; i < transport->shards(); ++i) {
    while (!transport->Connected(ShardId{i}) && absl::Now() < until) transport->Progress(absl::Milliseconds(1));
    if (transport->Connected(ShardId{i})) continue;
    return absl::UnavailableError(absl::StrCat(std::string(transport->WhyNot(ShardId{i}).message()), " (", addresses[i],
                                               "); start expert_service with --device cuda and --nccl-address"));
  }
  LogInfo(absl::StrCat("activations over nccl ", NcclVersionText(nccl.api->version),
                       options.checksum ? ", without checksums: rows stay on the devices" : ""));
  return std::unique_ptr<Transport>(std::move(transport));
}

// Progresses until every shard is connected or has said that it will not be.
void WaitForConnections(UcxTransport& ucx, absl::Duration patience) {
  const auto settled = [&](int shard) {
    return ucx.Connected(ShardId{shard}) || absl::IsUnimplemented(ucx.LastRefusal(ShardId{shard}));
  };
  for (const absl::Time until = absl::Now() + patience; absl::Now() < until;) {
    ucx.Progress(absl::Milliseconds(1));
    int connected = 0;
    while (connected < ucx.shards() && settled(connected)) ++connected;
    if (connected == ucx.shards()) return;
  }
}

void LogChoice(const std::vector<std::string>& addresses, const UcxTransport& ucx) {
  for (int i = 0; i < ucx.shards(); ++i) {
    const ShardId shard{i};
    LogInfo(absl::StrCat("shard ", i, " at ", addresses[i], ": activations over ",
                         ucx.Connected(shard)
                             ? absl::StrCat("ucx (", ucx.Wires(shard), ")")
                             : absl::StrCat("grpc, not ucx: ", std::string(ucx.WhyNot(shard).message()))));
  }
}

}  // namespace

absl::StatusOr<TransportKind> ParseTransportKind(absl::string_view text) {
  if (text == "auto") return TransportKind::kAuto;
  if (text == "grpc") return TransportKind::kGrpc;
  if (text == "ucx") return TransportKind::kUcx;
  if (text == "nccl") return TransportKind::kNccl;
  return absl::InvalidArgumentError(absl::StrCat("expected auto, grpc, ucx or nccl, got '", text.substr(0, 60), "'"));
}

absl::StatusOr<std::unique_ptr<Transport>> DialShards(const std::vector<std::string>& addresses,
                                                      const DialOptions& options) {
  if (options.kind == TransportKind::kNccl) return Nccl(addresses, options);
  const bool encrypt = options.kind == TransportKind::kAuto && options.credentials != nullptr;
  if (options.kind == TransportKind::kGrpc || encrypt) return Grpc(addresses, options);
  absl::StatusOr<std::unique_ptr<UcxTransport>> ucx = Ucx(addresses, options);
  if (!ucx.ok()) {
    if (options.kind == TransportKind::kUcx) return ucx.status();
    LogInfo(absl::StrCat("activations over grpc: ", std::string(ucx.status().message())));
    return Grpc(addresses, options);
  }
  WaitForConnections(**ucx, options.ucx_wait);
  if (options.kind == TransportKind::kUcx) {
    for (int i = 0; i < (*ucx)->shards(); ++i) {
      if ((*ucx)->Connected(ShardId{i})) continue;
      return absl::UnavailableError(
          absl::StrCat(std::string((*ucx)->WhyNot(ShardId{i}).message()), " (", addresses[i],
                       "); start expert_service with --ucx-address, or use --transport auto"));
    }
  }
  LogChoice(addresses, **ucx);
  if (options.kind == TransportKind::kUcx) return std::unique_ptr<Transport>(*std::move(ucx));
  std::unique_ptr<StagedCalls> staged;
  if ((*ucx)->rows_device() == Device::kCuda) {
    ASSIGN_OR_RETURN(auto stream, options.accelerator->NewStream());
    staged = std::make_unique<StagedCalls>(std::move(stream));
  }
  return NewPreferredTransport(*std::move(ucx), Grpc(addresses, options), std::move(staged));
}

}  // namespace conclave
