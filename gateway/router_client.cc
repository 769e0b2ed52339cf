#include "gateway/router_client.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/control.grpc.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/client_callback.h"
#include "moe/base/protocol_version.h"
#include "moe/daemon/grpc_trace.h"
#include "moe/daemon/open_calls.h"

namespace conclave {
namespace {

constexpr int kMessageBytesMax = 64 << 20;

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address,
                                          std::shared_ptr<grpc::ChannelCredentials> credentials) {
  if (credentials == nullptr) credentials = grpc::InsecureChannelCredentials();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  // A router that restarts is found again soon; one that vanished without a word is noticed.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  // This one is no pause: it is the time that an attempt may take, a far router's handshakes included.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(kReconnectPauseMax / absl::Milliseconds(1)));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

// gRPC has one kind of status for what a peer said and for what became of the connection. By its contract a router that
// is UNAVAILABLE names itself or an expert; what else is UNAVAILABLE is the connection, as is an error of the protocol.
absl::Status FromRouter(const std::string& address, const grpc::ClientContext& context, const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (code == absl::StatusCode::kUnimplemented) {
    return absl::FailedPreconditionError("is no attention service: something else answers there");
  }
  const std::string message = status.error_message();
  const bool named = absl::StrContains(message, "attention service") || absl::StrContains(message, "expert ");
  const bool of_protocol = (code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown) &&
                           !absl::StrContains(context.debug_error_string(), "Error received from peer");
  if (!of_protocol && (code != absl::StatusCode::kUnavailable || named)) return absl::Status(code, message);
  return absl::UnavailableError(absl::StrCat("the attention service at ", address, " failed: ", message));
}

// Counts a call for as long as it holds anything of its channel.
class Counted {
 public:
  explicit Counted(OpenCalls& calls) : calls_(calls) { calls_.Enter(); }
  ~Counted() { calls_.Leave(); }

 private:
  OpenCalls& calls_;
};

// Owned by gRPC until OnDone, and by whoever may cancel it.
class Call final : public DecodeCall, public grpc::ClientReadReactor<v1::DecodeResponse> {
 public:
  Call(OpenCalls& calls, std::string address, v1::DecodeRequest request, absl::Time deadline,
       const TraceContext& trace, std::shared_ptr<DecodeListener> listener)
      : counted_(calls), address_(std::move(address)), request_(std::move(request)), listener_(std::move(listener)) {
    if (deadline != absl::InfiniteFuture()) context_.set_deadline(absl::ToChronoTime(deadline));
    AddTraceMetadata(trace, context_);
  }

  void Start(v1::RouterService::Stub& stub, std::shared_ptr<Call> self) {
    self_ = std::move(self);
    stub.async()->Decode(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void Cancel() override { context_.TryCancel(); }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    listener_->OnResponse(response_);
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    listener_->OnEnd(FromRouter(address_, context_, status));
    listener_.reset();
    self_.reset();
  }

  const Counted counted_;  // first: it goes last
  const std::string address_;
  const v1::DecodeRequest request_;
  std::shared_ptr<DecodeListener> listener_;
  grpc::ClientContext context_;
  v1::DecodeResponse response_;
  std::shared_ptr<Call> self_;
};

class GrpcRouterClient final : public RouterClient {
 public:
  GrpcRouterClient(const std::string& address, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : address_(address), stub_(v1::RouterService::NewStub(NewChannel(address, std::move(credentials)))) {}

  // A call holds a share of the channel. Would the last share go in a call's own callback, gRPC 1.51 would end its
  // callback threads from one of them, which frees the queue that this thread goes on to use.
  ~GrpcRouterClient() override { calls_.Drain(absl::InfiniteFuture()); }

  absl::StatusOr<v1::GetStatusResponse> GetStatus(absl::Duration timeout) override {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    v1::GetStatusResponse response;
    const grpc::Status result = stub_->GetStatus(&context, v1::GetStatusRequest(), &response);
    const absl::Status status = FromRouter(address_, context, result);
    if (!status.ok()) return status;
    const absl::Status version = CheckProtocolVersion(absl::StrCat("the attention service at ", address_),
                                                      static_cast<int>(response.protocol_version()));
    if (!version.ok()) return version;
    return response;
  }

  std::shared_ptr<DecodeCall> Decode(v1::DecodeRequest request, absl::Time deadline, const TraceContext& trace,
                                     std::shared_ptr<DecodeListener> listener) override {
    auto call = std::make_shared<Call>(calls_, address_, std::move(request), deadline, trace, std::move(listener));
    call->Start(*stub_, call);
    return call;
  }

 private:
  const std::string address_;
  OpenCalls calls_;
  const std::unique_ptr<v1::RouterService::Stub> stub_;
};

}  // namespace

std::unique_ptr<RouterClient> RouterClient::Create(const std::string& address,
                                                   std::shared_ptr<grpc::ChannelCredentials> credentials) {
  return std::make_unique<GrpcRouterClient>(address, std::move(credentials));
}

}  // namespace conclave
