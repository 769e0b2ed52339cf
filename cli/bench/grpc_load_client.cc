#include "cli/bench/grpc_load_client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr std::chrono::seconds kDiscoverTimeout{10};

std::optional<absl::Duration> RetryDelayOf(const grpc::Status& status) {
  google::rpc::Status rich;
  google::rpc::RetryInfo retry;
  if (!rich.ParseFromString(status.error_details())) return std::nullopt;
  for (const auto& detail : rich.details()) {
    if (!detail.UnpackTo(&retry)) continue;
    return absl::Seconds(retry.retry_delay().seconds()) + absl::Nanoseconds(retry.retry_delay().nanos());
  }
  return std::nullopt;
}

void NoteEnd(const grpc::Status& status, bool finished, RequestRecord* record) {
  const Instant now = std::chrono::steady_clock::now();
  if (status.ok() && finished) {
    record->Finish(Outcome::kAnswered, now);
  } else if (status.ok()) {
    record->Fail("the stream ended without a finish reason", now);
  } else if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED && !record->began) {
    record->retry_after = RetryDelayOf(status);
    record->error = status.error_message();
    record->Finish(Outcome::kRefused, now);
  } else {
    const auto code = static_cast<absl::StatusCode>(status.error_code());
    record->Fail(absl::StrCat(record->began ? "in mid-stream: " : "", absl::StatusCodeToString(code), ": ",
                              status.error_message()),
                 now);
  }
}

class Client final : public LoadClient {
 public:
  Client(std::string address, const ClusterAccess& access, const std::shared_ptr<grpc::Channel>& channel)
      : address_(std::move(address)), access_(access), stub_(v1::InferenceService::NewStub(channel)) {}

  // gRPC must not lose its channel within one of the channel's own callbacks.
  ~Client() override {
    CancelAll();
    absl::MutexLock lock(&mutex_, absl::Condition(this, &Client::IsIdle));
  }

  absl::StatusOr<ServedModel> Discover(absl::string_view text) override {
    grpc::ClientContext models_context, tokens_context;
    for (grpc::ClientContext* context : {&models_context, &tokens_context}) {
      access_.Authorize(*context);
      context->set_deadline(std::chrono::system_clock::now() + kDiscoverTimeout);
    }
    v1::ListModelsResponse models;
    RETURN_IF_ERROR(StatusOfCall(stub_->ListModels(&models_context, {}, &models), "gateway", address_));
    if (models.models().empty()) return absl::UnavailableError(absl::StrCat(address_, " serves no model"));
    v1::TokenizeRequest request;
    request.set_text(std::string(text));
    v1::TokenizeResponse tokens;
    RETURN_IF_ERROR(StatusOfCall(stub_->Tokenize(&tokens_context, request, &tokens), "gateway", address_));
    return ServedModel{models.models(0).id(), {tokens.ids().begin(), tokens.ids().end()}};
  }

  void SetOptions(const RequestOptions& options) override { options_ = options; }

  void Start(const WorkItem& item, RequestRecord* record, std::function<void()> done) override {
    auto* call = new Call(*this, record, std::move(done));
    call->request.set_model(options_.model);
    call->request.mutable_tokens()->mutable_ids()->Assign(item.prompt.begin(), item.prompt.end());
    call->request.mutable_sampling()->set_temperature(0);
    call->request.set_max_tokens(item.output_tokens);
    call->request.set_ignore_eos(!options_.stop_at_eos);
    access_.Authorize(call->context);
    call->context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(options_.timeout));
    {
      absl::MutexLock lock(&mutex_);
      calls_.insert(call);
    }
    record->sent = std::chrono::steady_clock::now();
    stub_->async()->Generate(&call->context, &call->request, call);
    call->StartRead(&call->message);
    call->StartCall();
  }

  void CancelAll() override {
    absl::MutexLock lock(&mutex_);
    for (Call* call : calls_) call->context.TryCancel();
  }

 private:
  // One request; it deletes itself when gRPC is done with it.
  struct Call final : grpc::ClientReadReactor<v1::GenerateResponse> {
    Call(Client& client, RequestRecord* record, std::function<void()> done)
        : client_(client), record_(record), done_(std::move(done)) {}

    void OnReadDone(bool ok) override {
      if (!ok) return;
      if (message.ids_size() > 0) record_->AddPiece(std::chrono::steady_clock::now());
      finished_ = finished_ || !message.finish_reason().empty();
      if (message.has_usage()) {
        record_->input_tokens = message.usage().prompt_tokens();
        record_->output_tokens = message.usage().completion_tokens();
        record_->cached_tokens = message.usage().cached_tokens();
      }
      StartRead(&message);
    }

    void OnDone(const grpc::Status& status) override {
      NoteEnd(status, finished_, record_);
      const std::function<void()> done = std::move(done_);
      Client& client = client_;
      // The client may go once it is idle, so that nothing of it is touched after this.
      done();
      absl::MutexLock lock(&client.mutex_);
      client.calls_.erase(this);
      delete this;
    }

    grpc::ClientContext context;
    v1::GenerateRequest request;
    v1::GenerateResponse message;

   private:
    Client& client_;
    RequestRecord* record_;
    std::function<void()> done_;
    bool finished_ = false;
  };

  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return calls_.empty(); }

  const std::string address_;
  const ClusterAccess& access_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  RequestOptions options_;
  absl::Mutex mutex_;
  std::set<Call*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<LoadClient>> NewGrpcLoadClient(const std::string& address, const ClusterAccess& access) {
  ASSIGN_OR_RETURN(const auto channel, access.Open(address));
  return std::make_unique<Client>(address, access, channel);
}

}  // namespace conclave
