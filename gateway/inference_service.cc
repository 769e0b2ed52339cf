#include "gateway/inference_service.h"

#include <atomic>
#include <chrono>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "gateway/caller.h"
#include "gateway/request_parser.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/open_calls.h"
#include "moe/daemon/server_stream.h"

namespace conclave {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture() : absl::FromChrono(deadline);
}

absl::Status Parse(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  grpc::Slice slice;
  // A message that came in several pieces has to be put together once; small ones are not copied.
  if (!bytes.TrySingleSlice(&slice).ok() && !bytes.DumpToSingleSlice(&slice).ok()) {
    return absl::InternalError("the request's buffer cannot be read");
  }
  return ParseRequest(absl::string_view(reinterpret_cast<const char*>(slice.begin()), slice.size()), message);
}

absl::Status StillLoading() { return absl::UnavailableError("this gateway is starting; try again"); }

// One Generate call: passes the answer's chunks on, and the client's leaving back.
class GenerateStream final : public ServerStream<v1::GenerateResponse> {
 public:
  explicit GenerateStream(OpenCalls& calls) : calls_(calls) {}

  static void Start(const std::shared_ptr<GenerateStream>& stream, Dispatcher* dispatcher,
                    const grpc::ByteBuffer& bytes, absl::Time deadline) {
    absl::StatusOr<std::shared_ptr<AnswerHandle>> answer = stream->Begin(stream, dispatcher, bytes, deadline);
    if (!answer.ok()) return stream->End(answer.status());
    {
      absl::MutexLock lock(&stream->mutex_);
      stream->answer_ = *answer;
      if (!stream->gone_) return;
    }
    (*answer)->Cancel();
  }

 private:
  // The dispatcher's share of the stream; apart, because a stream is owned in another way.
  class Sink final : public AnswerSink {
   public:
    explicit Sink(std::shared_ptr<GenerateStream> stream) : stream_(std::move(stream)) {}
    void OnChunk(const v1::GenerateResponse& chunk) override {
      // MergeFrom appends ids and sets the fields of the last chunk, but would replace the text.
      stream_->Add([&chunk](v1::GenerateResponse& message) {
        std::string text = std::move(*message.mutable_text());
        text += chunk.text();
        message.MergeFrom(chunk);
        message.set_text(std::move(text));
      });
    }
    void OnEnd(const absl::Status& status) override { stream_->End(status); }

   private:
    std::shared_ptr<GenerateStream> stream_;
  };

  absl::StatusOr<std::shared_ptr<AnswerHandle>> Begin(const std::shared_ptr<GenerateStream>& stream,
                                                      Dispatcher* dispatcher, const grpc::ByteBuffer& bytes,
                                                      absl::Time deadline) {
    if (!calls_.Enter()) return absl::UnavailableError("this gateway is stopping; try another one");
    entered_ = true;
    if (dispatcher == nullptr) return StillLoading();
    v1::GenerateRequest request;
    RETURN_IF_ERROR(Parse(bytes, &request));
    ASSIGN_OR_RETURN(const std::shared_ptr<const Tenant> tenant, authenticator_->Authenticate(""));
    return dispatcher->Generate({tenant, ""}, request, deadline, std::make_shared<Sink>(stream));
  }

  void OnClientGone() override {
    std::shared_ptr<AnswerHandle> answer;
    {
      absl::MutexLock lock(&mutex_);
      gone_ = true;
      answer = answer_;
    }
    if (answer != nullptr) answer->Cancel();
  }
  void OnClosed() override {
    {
      absl::MutexLock lock(&mutex_);
      answer_.reset();
    }
    if (entered_) calls_.Leave();
  }

  OpenCalls& calls_;
  const std::unique_ptr<Authenticator> authenticator_ = NewOpenAuthenticator();
  bool entered_ = false;
  absl::Mutex mutex_;
  std::shared_ptr<AnswerHandle> answer_ ABSL_GUARDED_BY(mutex_);
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
};

// Requests are taken as bytes, which the generated classes offer only together with replies as bytes; the handlers
// are therefore set here, by the methods' places in inference.proto.
class Service final : public InferenceGrpcService, public v1::InferenceService::Service {
 public:
  Service() {
    using grpc::ByteBuffer;
    using grpc::CallbackServerContext;
    MarkMethodCallback(kGenerate, new grpc::internal::CallbackServerStreamingHandler<ByteBuffer, v1::GenerateResponse>(
                                      [this](CallbackServerContext* context, const ByteBuffer* request) {
                                        auto stream = std::make_shared<GenerateStream>(calls_);
                                        auto* reactor = GenerateStream::Open(stream);
                                        GenerateStream::Start(stream, dispatcher_.load(), *request,
                                                              DeadlineOf(*context));
                                        return reactor;
                                      }));
    MarkMethodCallback(kTokenize, new grpc::internal::CallbackUnaryHandler<ByteBuffer, v1::TokenizeResponse>(
                                      [this](CallbackServerContext* context, const ByteBuffer* request,
                                             v1::TokenizeResponse* response) {
                                        auto* reactor = context->DefaultReactor();
                                        reactor->Finish(ToGrpcStatus(RunTokenize(*request, response)));
                                        return reactor;
                                      }));
    MarkMethodCallback(kListModels,
                       new grpc::internal::CallbackUnaryHandler<ByteBuffer, v1::ListModelsResponse>(
                           [this](CallbackServerContext* context, const ByteBuffer*, v1::ListModelsResponse* response) {
                             auto* reactor = context->DefaultReactor();
                             reactor->Finish(ToGrpcStatus(RunListModels(response)));
                             return reactor;
                           }));
  }

  grpc::Service* service() override { return this; }
  void SetDispatcher(Dispatcher* dispatcher) override { dispatcher_.store(dispatcher); }
  void Drain(absl::Time deadline) override { calls_.Drain(deadline); }

 private:
  static constexpr int kGenerate = 0, kTokenize = 1, kListModels = 2;

  absl::Status RunTokenize(const grpc::ByteBuffer& bytes, v1::TokenizeResponse* response) {
    Dispatcher* dispatcher = dispatcher_.load();
    if (dispatcher == nullptr) return StillLoading();
    v1::TokenizeRequest request;
    RETURN_IF_ERROR(Parse(bytes, &request));
    ASSIGN_OR_RETURN(*response, dispatcher->Tokenize(request));
    return absl::OkStatus();
  }
  absl::Status RunListModels(v1::ListModelsResponse* response) {
    Dispatcher* dispatcher = dispatcher_.load();
    if (dispatcher == nullptr) return StillLoading();
    *response = dispatcher->ListModels();
    return absl::OkStatus();
  }

  std::atomic<Dispatcher*> dispatcher_{nullptr};
  OpenCalls calls_;
};

}  // namespace

std::unique_ptr<InferenceGrpcService> InferenceGrpcService::Create() { return std::make_unique<Service>(); }

}  // namespace conclave
