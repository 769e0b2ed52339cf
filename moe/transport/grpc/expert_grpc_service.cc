#include "moe/transport/grpc/expert_grpc_service.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "conclave/v1/expert.pb.h"
#include "moe/transport/check_caller.h"
#include "moe/transport/grpc/expert_codec.h"
#include "moe/transport/shard_control.h"

namespace conclave {
namespace {

// A stream keeps the memory of its last messages up to this size for the next ones.
constexpr size_t kKeptBytesMax = size_t{32} << 20;

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

std::string Metadata(const grpc::ServerContext& context, const char* key) {
  const auto found = context.client_metadata().find(key);
  return found == context.client_metadata().end() ? "" : std::string(found->second.data(), found->second.size());
}

// Where the messages of one stream are decoded and answered.
struct Conversation {
  v1::ExpertRequest request;
  v1::ExpertReply reply;
  DecodedCall decoded;

  void Answer(ExpertHandler& handler) {
    const absl::Status refused = DecodeExpertRequest(request, CallLimits{}, absl::Now(), &decoded);
    if (!refused.ok()) return EncodeExpertError(request.call_id(), refused, &reply);
    const MatView out = PrepareExpertReply(decoded.call, &reply);
    const absl::Status status = handler.Run(decoded.call, out);
    if (!status.ok()) return EncodeExpertError(request.call_id(), status, &reply);
    if (request.has_checksum()) SealExpertReply(out, &reply);
  }

  void GiveBackMuchMemory() {
    if (request.rows().data().size() > kKeptBytesMax) v1::ExpertRequest().Swap(&request);
    if (reply.rows().data().size() > kKeptBytesMax) v1::ExpertReply().Swap(&reply);
  }
};

class Service final : public v1::ExpertService::Service {
 public:
  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeRequest* request,
                        v1::DescribeResponse* response) override {
    const absl::StatusOr<ExpertHandler*> handler = Ready();
    if (!handler.ok()) return ToGrpc(handler.status());
    const ShardDescription description = (*handler)->Describe();
    const absl::Status expected = CheckCaller(description, request->model_fingerprint(), "", 0);
    if (expected.ok()) EncodeDescription(description, response);
    return ToGrpc(expected);
  }

  grpc::Status LoadExperts(grpc::ServerContext* context, const v1::LoadExpertsRequest* request,
                           v1::DescribeResponse* response) override {
    const absl::StatusOr<ExpertHandler*> handler = Ready();
    if (!handler.ok()) return ToGrpc(handler.status());
    const absl::Status expected = CheckCaller((*handler)->Describe(), request->model_fingerprint(), "", 0);
    if (!expected.ok()) return ToGrpc(expected);
    const absl::StatusOr<std::vector<LayerHolding>> experts = DecodeHoldings(request->experts());
    if (!experts.ok()) return ToGrpc(experts.status());
    const absl::StatusOr<ShardDescription> description = (*handler)->LoadExperts(*experts);
    if (description.ok()) EncodeDescription(*description, response);
    return ToGrpc(description.status());
  }

  grpc::Status Connect(grpc::ServerContext*, const v1::ConnectRequest* request,
                       v1::ConnectResponse* response) override {
    if (const absl::StatusOr<ExpertHandler*> handler = Ready(); !handler.ok()) return ToGrpc(handler.status());
    DataPlane* const data_plane = data_plane_;
    if (data_plane == nullptr) return ToGrpc(absl::UnimplementedError("this shard takes activations over gRPC alone"));
    DataPlaneRequest asked;
    asked.peer = request->peer();
    asked.version_min = request->wire_version_min();
    asked.version_max = request->wire_version_max();
    asked.model_fingerprint = request->model_fingerprint();
    asked.numeric_profile = request->numeric_profile();
    asked.placement_epoch = request->placement_epoch();
    const absl::StatusOr<DataPlaneOffer> offer = data_plane->Connect(asked);
    if (!offer.ok()) return ToGrpc(offer.status());
    response->set_wire_version(offer->version);
    response->set_connection(offer->connection);
    response->set_token(offer->token);
    response->set_ucx_address(offer->address);
    return grpc::Status::OK;
  }

  grpc::Status Exchange(grpc::ServerContext* context,
                        grpc::ServerReaderWriter<v1::ExpertReply, v1::ExpertRequest>* stream) override {
    const absl::StatusOr<ExpertHandler*> handler = Ready();
    if (!handler.ok()) return ToGrpc(handler.status());
    const absl::Status expected = CheckCaller((*handler)->Describe(), Metadata(*context, kModelFingerprintKey),
                                              Metadata(*context, kNumericProfileKey), 0);
    if (!expected.ok()) return ToGrpc(expected);
    Conversation conversation;
    if (!Enter(context)) return ToGrpc(absl::UnavailableError("the shard is draining"));
    while (stream->Read(&conversation.request)) {
      if (!SetBusy(context, true)) break;
      conversation.Answer(**handler);
      const bool written = stream->Write(conversation.reply);
      if (!SetBusy(context, false) || !written) break;
      conversation.GiveBackMuchMemory();
    }
    return Leave(context) ? ToGrpc(absl::UnavailableError("the shard is draining")) : grpc::Status::OK;
  }

  void SetHandler(ExpertHandler* handler) {
    std::lock_guard<std::mutex> lock(mutex_);
    handler_ = handler;
  }

  void SetDataPlane(DataPlane* data_plane) { data_plane_ = data_plane; }

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
  absl::StatusOr<ExpertHandler*> Ready() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (draining_) return absl::UnavailableError("the shard is draining");
    if (handler_ == nullptr) return absl::UnavailableError(absl::StrCat(kShardNotReady, ": ", not_ready_));
    return handler_;
  }

  // A stream is idle (waiting for a message, so that Drain may cut it off) or busy. False: the shard is draining.
  bool Enter(grpc::ServerContext* context) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!draining_) idle_.insert(context);
    return !draining_;
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

  std::mutex mutex_;
  std::condition_variable gone_;
  std::atomic<DataPlane*> data_plane_{nullptr};
  ExpertHandler* handler_ = nullptr;            // guarded by mutex_
  std::string not_ready_ = "starting";          // guarded by mutex_
  bool draining_ = false;                       // guarded by mutex_
  std::set<grpc::ServerContext*> idle_, busy_;  // guarded by mutex_
};

class ExpertGrpcServiceImpl final : public ExpertGrpcService {
 public:
  grpc::Service* service() override { return &service_; }
  void SetHandler(ExpertHandler* handler) override { service_.SetHandler(handler); }
  void SetDataPlane(DataPlane* data_plane) override { service_.SetDataPlane(data_plane); }
  void SetNotReady(absl::string_view why) override { service_.SetNotReady(why); }
  void Drain(absl::Time deadline) override { service_.Drain(deadline); }

 private:
  Service service_;
};

class GrpcExpertServerImpl final : public GrpcExpertServer {
 public:
  GrpcExpertServerImpl(ExpertHandler& handler, DataPlane* data_plane) {
    service_.SetDataPlane(data_plane);
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

std::unique_ptr<ExpertGrpcService> ExpertGrpcService::Create() { return std::make_unique<ExpertGrpcServiceImpl>(); }

absl::StatusOr<std::unique_ptr<GrpcExpertServer>> GrpcExpertServer::Start(const std::string& address,
                                                                          ExpertHandler& handler,
                                                                          DataPlane* data_plane) {
  auto server = std::make_unique<GrpcExpertServerImpl>(handler, data_plane);
  if (absl::Status status = server->Listen(address); !status.ok()) return status;
  return std::unique_ptr<GrpcExpertServer>(std::move(server));
}

}  // namespace conclave
