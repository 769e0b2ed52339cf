#include "moe/transport/grpc/expert_grpc_service.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>  // serialises protobuf messages from and to byte buffers

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "conclave/v1/expert.pb.h"
#include "moe/base/status_macros.h"
#include "moe/transport/check_caller.h"
#include "moe/transport/grpc/expert_codec.h"
#include "moe/transport/grpc/message_memory.h"
#include "moe/transport/grpc/peer_host.h"
#include "moe/transport/shard_control.h"

namespace conclave {
namespace {

// A stream keeps the memory of its last messages up to this size for the next ones.
constexpr size_t kKeptBytesMax = size_t{32} << 20;
constexpr size_t kStreamsMax = 1024;

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

std::string Metadata(const grpc::ServerContext& context, const char* key) {
  const auto found = context.client_metadata().find(key);
  return found == context.client_metadata().end() ? "" : std::string(found->second.data(), found->second.size());
}

// As it calls itself, and where it connects from.
Peer PeerOf(const grpc::ServerContext& context) {
  return Peer{Metadata(context, kPeerNameKey).substr(0, kPeerNameBytesMax), HostOfPeer(context.peer())};
}

// Where the messages of one stream are decoded and answered.
struct Conversation {
  grpc::ByteBuffer raw;
  v1::ExpertRequest request;
  v1::ExpertReply reply;
  bool answered = false;  // `reply` is to be sent
  uint64_t last_call_id = 0;
  DecodedCall decoded;

  // Answers `raw`. Not OK: the status with which the stream is to end, after the reply.
  absl::Status Answer(ExpertHandler& handler, PeerGate& gate, const Peer& peer) {
    answered = false;
    RETURN_IF_ERROR(gate.Admit(peer.Culprit()));  // for what it did elsewhere
    if (!grpc::SerializationTraits<v1::ExpertRequest>::Deserialize(&raw, &request).ok()) {
      // Nobody knows which call it was: it ends with the stream, and the router sends it again at once.
      const absl::Status why = absl::InvalidArgumentError("a message that is no ExpertRequest");
      gate.Offend(Carrier::kGrpc, Refusal::kMessage, peer, why.message());
      return why;
    }
    answered = true;
    absl::Status status = DecodeExpertRequest(request, CallLimits{}, absl::Now(), &decoded);
    const bool damaged = absl::IsDataLoss(status);
    const bool replayed = status.ok() && request.call_id() <= last_call_id;
    if (replayed) {
      status = absl::InvalidArgumentError(
          absl::StrCat("call_id: ", request.call_id(), " after ", last_call_id, "; it came before"));
    }
    if (status.ok()) status = Run(handler);
    if (status.ok()) return status;
    EncodeExpertError(request, status, &reply);
    if (damaged) gate.Refuse(Carrier::kGrpc, Refusal::kChecksum, peer, status.message());
    if (!absl::IsInvalidArgument(status)) return absl::OkStatus();
    gate.Offend(Carrier::kGrpc, replayed ? Refusal::kMessage : Refusal::kCall, peer, status.message());
    return gate.Admit(peer.Culprit());
  }

  absl::Status Run(ExpertHandler& handler) {
    last_call_id = request.call_id();
    const MatView out = PrepareExpertReply(decoded.call, &reply);
    RETURN_IF_ERROR(handler.Run(decoded.call, out));
    if (request.has_checksum()) SealExpertReply(out, &reply);
    return absl::OkStatus();
  }

  void GiveBackMuchMemory() {
    raw.Clear();
    if (request.rows().data().size() > kKeptBytesMax) v1::ExpertRequest().Swap(&request);
    if (static_cast<size_t>(decoded.unpacked.bytes()) > kKeptBytesMax) decoded.unpacked = MatBuffer();
    if (reply.rows().data().size() > kKeptBytesMax) v1::ExpertReply().Swap(&reply);
  }
};

class Service final : public v1::ExpertService::Service {
 public:
  // `gate` null: one of its own.
  explicit Service(PeerGate* gate)
      : own_gate_(gate == nullptr ? std::make_unique<PeerGate>() : nullptr),
        gate_(gate == nullptr ? *own_gate_ : *gate) {
    // Exchange reads its messages as bytes: gRPC itself cannot tell one that makes no sense from the end of the stream.
    using Stream = grpc::ServerReaderWriter<v1::ExpertReply, grpc::ByteBuffer>;
    const auto* const exchange =
        v1::ExpertRequest::descriptor()->file()->FindServiceByName("ExpertService")->FindMethodByName("Exchange");
    MarkMethodStreamed(exchange->index(),
                       new grpc::internal::BidiStreamingHandler<Service, grpc::ByteBuffer, v1::ExpertReply>(
                           [](Service* self, grpc::ServerContext* context, Stream* stream) {
                             return self->ExchangeBytes(context, stream);
                           },
                           this));
  }

  grpc::Status Describe(grpc::ServerContext* context, const v1::DescribeRequest* request,
                        v1::DescribeResponse* response) override {
    const absl::StatusOr<ExpertHandler*> handler = Ready();
    if (!handler.ok()) return ToGrpc(handler.status());
    const ShardDescription description = (*handler)->Describe();
    const absl::Status expected = CheckFit(*context, description, request->model_fingerprint(), "");
    if (!expected.ok()) return ToGrpc(expected);
    EncodeDescription(description, response);
    if (request->with_tokens()) EncodeTokens((*handler)->Tokens(), response);
    return grpc::Status::OK;
  }

  grpc::Status LoadExperts(grpc::ServerContext* context, const v1::LoadExpertsRequest* request,
                           v1::DescribeResponse* response) override {
    const auto load = [request](ExpertHandler& handler,
                                absl::Span<const LayerHolding> experts) -> absl::StatusOr<ShardDescription> {
      if (request->weights_first()) {
        if (const absl::Status ready = handler.PrepareExperts(experts); !ready.ok()) return ready;
      }
      return handler.LoadExperts(experts);
    };
    return Change(*context, *request, response, load);
  }

  grpc::Status KeepExperts(grpc::ServerContext* context, const v1::ChangeExpertsRequest* request,
                           v1::DescribeResponse* response) override {
    return Change(*context, *request, response, [request](ExpertHandler& handler, const auto& experts) {
      return handler.KeepExperts(experts, request->revision());
    });
  }

  grpc::Status UnloadExperts(grpc::ServerContext* context, const v1::ChangeExpertsRequest* request,
                             v1::DescribeResponse* response) override {
    return Change(*context, *request, response, [request](ExpertHandler& handler, const auto& experts) {
      return handler.UnloadExperts(experts, request->revision());
    });
  }

  grpc::Status Connect(grpc::ServerContext*, const v1::ConnectRequest* request,
                       v1::ConnectResponse* response) override {
    if (const absl::StatusOr<ExpertHandler*> handler = Ready(); !handler.ok()) return ToGrpc(handler.status());
    const bool nccl = request->nccl_version() > 0;
    DataPlane* const data_plane = nccl ? nccl_data_plane_ : data_plane_;
    if (data_plane == nullptr) {
      return ToGrpc(absl::UnimplementedError(nccl ? "this shard takes no activations over NCCL"
                                                  : "this shard takes activations over gRPC alone"));
    }
    DataPlaneRequest asked;
    asked.peer = request->peer();
    asked.version_min = request->wire_version_min();
    asked.version_max = request->wire_version_max();
    asked.model_fingerprint = request->model_fingerprint();
    asked.numeric_profile = request->numeric_profile();
    asked.placement_epoch = request->placement_epoch();
    asked.nccl_version = static_cast<int>(std::min(request->nccl_version(), uint32_t{INT32_MAX}));
    asked.gpu = request->gpu();
    asked.instance = request->instance();
    asked.device_rows = request->device_rows();
    const absl::StatusOr<DataPlaneOffer> offer = data_plane->Connect(asked);
    if (!offer.ok()) return ToGrpc(offer.status());
    response->set_wire_version(offer->version);
    response->set_connection(offer->connection);
    response->set_token(offer->token);
    nccl ? response->set_nccl_address(offer->address) : response->set_ucx_address(offer->address);
    response->set_nccl_id(offer->nccl_id);
    response->set_device_rows(offer->device_rows);
    response->set_why_no_device_rows(offer->why_no_device_rows);
    return grpc::Status::OK;
  }

  void SetHandler(ExpertHandler* handler) {
    std::lock_guard<std::mutex> lock(mutex_);
    handler_ = handler;
  }

  void SetDataPlane(DataPlane* data_plane) { data_plane_ = data_plane; }
  void SetNcclDataPlane(DataPlane* data_plane) { nccl_data_plane_ = data_plane; }

  void SetNotReady(absl::string_view why) {
    std::lock_guard<std::mutex> lock(mutex_);
    not_ready_ = std::string(why);
  }

  void Drain(absl::Time deadline) {
    std::unique_lock<std::mutex> lock(mutex_);
    draining_ = true;
    for (grpc::ServerContext* context : idle_) context->TryCancel();
    gone_.wait_until(lock, absl::ToChronoTime(std::min(deadline, absl::Now() + absl::Hours(1))),
                     [&] { return idle_.empty() && busy_.empty(); });
  }

 private:
  // Answers with what `change`, called with the handler and the request's experts, describes.
  template <typename Request, typename Work>
  grpc::Status Change(const grpc::ServerContext& context, const Request& request, v1::DescribeResponse* response,
                      const Work& change) {
    const absl::StatusOr<ExpertHandler*> handler = Ready();
    if (!handler.ok()) return ToGrpc(handler.status());
    const absl::Status expected = CheckFit(context, (*handler)->Describe(), request.model_fingerprint(), "");
    if (!expected.ok()) return ToGrpc(expected);
    const absl::StatusOr<std::vector<LayerHolding>> experts = DecodeHoldings(request.experts());
    if (!experts.ok()) return ToGrpc(experts.status());
    const absl::StatusOr<ShardDescription> description = change(**handler, *experts);
    if (description.ok()) EncodeDescription(*description, response);
    return ToGrpc(description.status());
  }

  // Whether caller and shard fit together.
  absl::Status CheckFit(const grpc::ServerContext& context, const ShardDescription& description,
                        absl::string_view model, absl::string_view profile) {
    absl::Status fits = CheckCaller(description, model, profile, 0);
    if (!fits.ok()) gate_.Refuse(Carrier::kGrpc, Refusal::kMismatch, PeerOf(context), fits.message());
    return fits;
  }

  grpc::Status ExchangeBytes(grpc::ServerContext* context,
                             grpc::ServerReaderWriter<v1::ExpertReply, grpc::ByteBuffer>* stream) {
    const absl::StatusOr<ExpertHandler*> handler = Ready();
    if (!handler.ok()) return ToGrpc(handler.status());
    const Peer peer = PeerOf(*context);
    absl::Status end = gate_.Admit(peer.Culprit());
    if (!end.ok()) gate_.Refuse(Carrier::kGrpc, Refusal::kConnection, peer, end.message());
    if (end.ok()) {
      end = CheckFit(*context, (*handler)->Describe(), Metadata(*context, kModelFingerprintKey),
                     Metadata(*context, kNumericProfileKey));
    }
    if (end.ok()) end = Enter(context, peer);
    if (!end.ok()) return ToGrpc(end);
    Conversation conversation;
    while (stream->Read(&conversation.raw)) {
      if (!SetBusy(context, true)) break;
      end = conversation.Answer(**handler, gate_, peer);
      const bool written = !conversation.answered || stream->Write(conversation.reply);
      if (!SetBusy(context, false) || !written || !end.ok()) break;
      conversation.GiveBackMuchMemory();
    }
    const bool draining = Leave(context);
    if (end.ok() && draining) end = absl::UnavailableError("the shard is draining");
    return ToGrpc(end);
  }

  absl::StatusOr<ExpertHandler*> Ready() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (draining_) return absl::UnavailableError("the shard is draining");
    if (handler_ == nullptr) return absl::UnavailableError(absl::StrCat(kShardNotReady, ": ", not_ready_));
    return handler_;
  }

  // A stream is idle (waiting for a message, so that Drain may cut it off) or busy. UNAVAILABLE: the shard is draining.
  // RESOURCE_EXHAUSTED: too many are open; each holds a thread.
  absl::Status Enter(grpc::ServerContext* context, const Peer& peer) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (draining_) return absl::UnavailableError("the shard is draining");
    if (idle_.size() + busy_.size() >= kStreamsMax) {
      gate_.Refuse(Carrier::kGrpc, Refusal::kOverload, peer, "too many streams are open");
      return absl::ResourceExhaustedError(absl::StrCat(kStreamsMax, " routers are connected already"));
    }
    idle_.insert(context);
    return absl::OkStatus();
  }
  bool SetBusy(grpc::ServerContext* context, bool busy) {
    std::lock_guard<std::mutex> lock(mutex_);
    (busy ? idle_ : busy_).erase(context);
    (busy ? busy_ : idle_).insert(context);
    // A message that was read before the end came is still answered.
    return busy ? !context->IsCancelled() : !draining_;
  }
  bool Leave(grpc::ServerContext* context) {
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.erase(context);
    busy_.erase(context);
    gone_.notify_all();
    return draining_;
  }

  const std::unique_ptr<PeerGate> own_gate_;  // null: another's is used
  PeerGate& gate_;
  std::mutex mutex_;
  std::condition_variable gone_;
  std::atomic<DataPlane*> data_plane_{nullptr}, nccl_data_plane_{nullptr};
  ExpertHandler* handler_ = nullptr;            // guarded by mutex_
  std::string not_ready_ = "starting";          // guarded by mutex_
  bool draining_ = false;                       // guarded by mutex_
  std::set<grpc::ServerContext*> idle_, busy_;  // guarded by mutex_
};

class ExpertGrpcServiceImpl final : public ExpertGrpcService {
 public:
  explicit ExpertGrpcServiceImpl(PeerGate* gate) : service_(gate) {}
  grpc::Service* service() override { return &service_; }
  void SetHandler(ExpertHandler* handler) override { service_.SetHandler(handler); }
  void SetDataPlane(DataPlane* data_plane) override { service_.SetDataPlane(data_plane); }
  void SetNcclDataPlane(DataPlane* data_plane) override { service_.SetNcclDataPlane(data_plane); }
  void SetNotReady(absl::string_view why) override { service_.SetNotReady(why); }
  void Drain(absl::Time deadline) override { service_.Drain(deadline); }

 private:
  Service service_;
};

class GrpcExpertServerImpl final : public GrpcExpertServer {
 public:
  GrpcExpertServerImpl(ExpertHandler& handler, DataPlane* data_plane, PeerGate* gate, DataPlane* nccl)
      : service_(gate) {
    KeepMessageMemory();
    service_.SetDataPlane(data_plane);
    service_.SetNcclDataPlane(nccl);
    service_.SetHandler(&handler);
  }
  ~GrpcExpertServerImpl() override {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }
  const std::string& address() const override { return address_; }

  absl::Status Listen(const std::string& address) {
    const size_t colon = address.rfind(':');
    if (colon == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("address: \"", address, "\" is not host:port"));
    }
    grpc::ServerBuilder builder;
    int port = 0;
    // Without it a second server on the same port would quietly share it.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // Routers ping us on streams that have been silent for a while.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
    builder.SetMaxReceiveMessageSize(kExpertMessageBytesMax);
    builder.SetMaxSendMessageSize(kExpertMessageBytesMax);
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.service());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", address, "; is the port in use?"));
    }
    address_ = absl::StrCat(address.substr(0, colon), ":", port);
    return absl::OkStatus();
  }

 private:
  ExpertGrpcServiceImpl service_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

std::unique_ptr<ExpertGrpcService> ExpertGrpcService::Create(PeerGate* gate) {
  KeepMessageMemory();
  return std::make_unique<ExpertGrpcServiceImpl>(gate);
}

absl::StatusOr<std::unique_ptr<GrpcExpertServer>> GrpcExpertServer::Start(const std::string& address,
                                                                          ExpertHandler& handler,
                                                                          DataPlane* data_plane, PeerGate* gate,
                                                                          DataPlane* nccl) {
  auto server = std::make_unique<GrpcExpertServerImpl>(handler, data_plane, gate, nccl);
  if (absl::Status status = server->Listen(address); !status.ok()) return status;
  return std::unique_ptr<GrpcExpertServer>(std::move(server));
}

}  // namespace conclave
