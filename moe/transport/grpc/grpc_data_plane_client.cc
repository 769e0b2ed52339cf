#include "moe/transport/grpc/grpc_data_plane_client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "moe/transport/grpc/expert_channel.h"
#include "moe/transport/grpc/expert_codec.h"
#include "moe/transport/grpc/peer_host.h"

namespace conclave {
namespace {

// One question on its way.
struct Question {
  grpc::ClientContext context;
  v1::ConnectResponse response;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::ConnectResponse>> reader;
  bool nccl = false;  // it is what was asked for
  bool given_up = false;
  bool answered = false;
};

class Client final : public DataPlaneClient {
 public:
  Client(const std::vector<std::string>& addresses, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
         absl::Duration timeout)
      : timeout_(timeout) {
    for (const std::string& address : addresses) {
      stubs_.push_back(v1::ExpertService::NewStub(NewExpertChannel(address, kExpertMessageBytesMax, credentials)));
    }
    asked_.resize(addresses.size());
  }

  ~Client() override {
    for (auto& question : asked_) GiveUp(std::move(question));
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) Take(static_cast<Question*>(tag));
  }

  void Ask(ShardId shard, const DataPlaneRequest& request) override {
    GiveUp(std::move(asked_[Value(shard)]));
    auto question = std::make_unique<Question>();
    question->context.set_deadline(absl::ToChronoTime(absl::Now() + timeout_));
    v1::ConnectRequest message;
    message.set_peer(request.peer);
    message.set_wire_version_min(request.version_min);
    message.set_wire_version_max(request.version_max);
    message.set_model_fingerprint(request.model_fingerprint);
    message.set_numeric_profile(request.numeric_profile);
    message.set_placement_epoch(request.placement_epoch);
    message.set_nccl_version(static_cast<uint32_t>(request.nccl_version));
    message.set_gpu(request.gpu);
    message.set_instance(request.instance);
    message.set_device_rows(request.device_rows);
    question->nccl = request.nccl_version > 0;
    question->reader = stubs_[Value(shard)]->AsyncConnect(&question->context, message, &queue_);
    question->reader->Finish(&question->response, &question->status, question.get());
    asked_[Value(shard)] = std::move(question);
  }

  absl::optional<absl::StatusOr<DataPlaneOffer>> Answer(ShardId shard) override {
    Collect();
    std::unique_ptr<Question>& question = asked_[Value(shard)];
    if (question == nullptr || !question->answered) return absl::nullopt;
    const std::unique_ptr<Question> answered = std::move(question);
    const grpc::Status& status = answered->status;
    if (!status.ok()) {
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
    }
    DataPlaneOffer offer;
    offer.version = answered->response.wire_version();
    offer.connection = answered->response.connection();
    offer.token = answered->response.token();
    offer.address =
        ReachableAddress(answered->nccl ? answered->response.nccl_address() : answered->response.ucx_address(),
                         answered->context.peer());
    offer.nccl_id = answered->response.nccl_id();
    offer.device_rows = answered->response.device_rows();
    offer.why_no_device_rows = answered->response.why_no_device_rows();
    return offer;
  }

 private:
  // The queue returns it later; until then it must live.
  void GiveUp(std::unique_ptr<Question> question) {
    if (question == nullptr || question->answered) return;
    question->given_up = true;
    question->context.TryCancel();
    question.release();
  }

  static void Take(Question* question) {
    question->answered = true;
    if (question->given_up) delete question;
  }

  void Collect() {
    void* tag = nullptr;
    bool ok = false;
    while (queue_.AsyncNext(&tag, &ok, std::chrono::system_clock::time_point()) == grpc::CompletionQueue::GOT_EVENT) {
      Take(static_cast<Question*>(tag));
    }
  }

  const absl::Duration timeout_;
  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<v1::ExpertService::Stub>> stubs_;
  std::vector<std::unique_ptr<Question>> asked_;
};

}  // namespace

std::unique_ptr<DataPlaneClient> NewGrpcDataPlaneClient(const std::vector<std::string>& addresses,
                                                        std::shared_ptr<grpc::ChannelCredentials> credentials,
                                                        absl::Duration timeout) {
  return std::make_unique<Client>(addresses, credentials, timeout);
}

std::string ReachableAddress(const std::string& listener, const std::string& peer) {
  absl::string_view port = listener;
  if (!absl::ConsumePrefix(&port, "0.0.0.0:") && !absl::ConsumePrefix(&port, "[::]:")) return listener;
  if (!absl::StartsWith(peer, "ipv4:") && !absl::StartsWith(peer, "ipv6:")) return listener;
  return absl::StrCat(HostOfPeer(peer), ":", port);
}

}  // namespace conclave
