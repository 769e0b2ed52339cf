#include "cli/chat_client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

// Answers take as long as they take; what is small should not.
constexpr std::chrono::seconds kShortCallTimeout{10};

class Client final : public ChatClient {
 public:
  Client(std::string address, const ClusterAccess& access, const std::shared_ptr<grpc::Channel>& channel)
      : address_(std::move(address)), access_(access), stub_(v1::InferenceService::NewStub(channel)) {}

  absl::StatusOr<v1::ModelInfo> Model() override {
    grpc::ClientContext context;
    access_.Authorize(context);
    context.set_deadline(std::chrono::system_clock::now() + kShortCallTimeout);
    v1::ListModelsResponse models;
    RETURN_IF_ERROR(StatusOfCall(stub_->ListModels(&context, {}, &models), "gateway", address_));
    if (models.models().empty()) return absl::UnavailableError(absl::StrCat(address_, " serves no model"));
    return models.models(0);
  }

  absl::Status Ask(grpc::ClientContext& context, const v1::ChatRequest& request,
                   const std::function<void(absl::string_view)>& sink, ChatAnswer* answer) override {
    access_.Authorize(context);
    const absl::Time begin = absl::Now();
    const auto stream = stub_->Chat(&context, request);
    for (v1::GenerateResponse message; stream->Read(&message);) {
      if (!message.ids().empty() && answer->first == absl::ZeroDuration()) answer->first = absl::Now() - begin;
      answer->text += message.text();
      if (!message.finish_reason().empty()) answer->finish_reason = message.finish_reason();
      if (message.has_usage()) answer->usage = message.usage();
      sink(message.text());
    }
    answer->total = absl::Now() - begin;
    RETURN_IF_ERROR(StatusOfCall(stream->Finish(), "gateway", address_));
    if (!answer->finish_reason.empty()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("the gateway at ", address_, " ended the answer without a finish reason"));
  }

 private:
  const std::string address_;
  const ClusterAccess& access_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatClient>> ChatClient::Create(const std::string& address,
                                                               const ClusterAccess& access) {
  ASSIGN_OR_RETURN(const auto channel, access.Open(address));
  return std::make_unique<Client>(address, access, channel);
}

}  // namespace conclave
